/* Convolution of sparse signals: work in proportion to the values that are not zero.
 *
 * Signals are counts times a step, most of them zero. Layouts: x (I, H, W, C), out (I, OH, OW, O).
 * Three forms. Gathered: every pixel gets the list of its channels that are not zero, then each
 * output pixel adds, per kernel position, the rows of the weights that its list names. Held, for
 * 3 x 3 kernels of stride 1: along a row, the sums that a pixel reaches stay in registers.
 * Scattered, for other kernels of stride 1 with few outputs: every value that is not zero is added
 * to all outputs it reaches.
 */
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef struct {
  /* weight (KH, KW, C, O) to gather, (C, KH, KW, O) to scatter, (O / strip, C, 3, 3, strip) to
     hold; bias may be NULL */
  const float *x, *weight, *bias;
  float *out;
  uint16_t *channel; /* (I, H, W, C) channels that are not zero, first ones of each pixel */
  float *value;      /* the same places */
  uint16_t *count;   /* (I, H, W) entries of each list */
  int64_t images, height, width, channels;
  int64_t outs, out_height, out_width;
  int64_t kernel_height, kernel_width, stride, pad_height, pad_width;
  int32_t threads;
  int32_t onto; /* add to what is in `out`, without bias */
} Convolution;

/* Eight outputs, and as many as one register holds. */
typedef float Half __attribute__((vector_size(32), aligned(4)));
#ifdef __AVX512F__
typedef float Lane __attribute__((vector_size(64), aligned(4)));
enum { LANE = 16 };
#else
typedef Half Lane;
enum { LANE = 8 };
#endif
enum { HALF = 8 };
/* Gathered: output pixels per strip; their sums and a kernel position's weights stay in the cache. */
enum { STRIP = 128 };
/* Held: channels per block, whose weights stay in the first-level cache; fewest rows of a part. */
enum { CHANNELS = 32, BAND = 32 };

int64_t transpike_convolution_size(void) { return (int64_t)sizeof(Convolution); }
int64_t transpike_convolution_lanes(void) { return LANE; }

#ifdef __AVX2__
/* A bit for every value of one lane that is not zero. */
static inline unsigned nonzero(const float *x) {
#ifdef __AVX512F__
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(x), _mm512_setzero_ps(), _CMP_NEQ_UQ);
#else
  return (unsigned)_mm256_movemask_ps(
      _mm256_cmp_ps(_mm256_loadu_ps(x), _mm256_setzero_ps(), _CMP_NEQ_UQ));
#endif
}
#endif

/* How many values of every `every`-th pixel are not zero. */
int64_t transpike_sample(const Convolution *c, int64_t every) {
  const int64_t pixels = c->images * c->height * c->width;
  int64_t total = 0;
  for (int64_t p = 0; p < pixels; p += every) {
    const float *x = c->x + p * c->channels;
    int32_t here = 0;
#pragma omp simd reduction(+ : here)
    for (int64_t j = 0; j < c->channels; j++) here += x[j] != 0.0f;
    total += here;
  }
  return total;
}

/* Fill the lists; returns how many values are not zero. */
int64_t transpike_list(const Convolution *c) {
  const int64_t pixels = c->images * c->height * c->width;
  int64_t total = 0;
#pragma omp parallel for schedule(static) num_threads(c->threads) reduction(+ : total)
  for (int64_t p = 0; p < pixels; p++) {
    const float *x = c->x + p * c->channels;
    uint16_t *channel = c->channel + p * c->channels;
    float *value = c->value + p * c->channels;
    int64_t n = 0, j = 0;
#if defined(__AVX512F__)
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; j + LANE <= c->channels; j += LANE) {
      const __m512 lane = _mm512_loadu_ps(x + j);
      const __mmask16 some = _mm512_cmp_ps_mask(lane, _mm512_setzero_ps(), _CMP_NEQ_UQ);
      const __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32((int)j));
      /* n <= j: the whole register fits into the pixel's places. */
      _mm512_storeu_ps(value + n, _mm512_maskz_compress_ps(some, lane));
      _mm256_storeu_si256((__m256i *)(channel + n),
                          _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(some, at)));
      n += __builtin_popcount(some);
    }
#elif defined(__AVX2__)
    for (; j + LANE <= c->channels; j += LANE) {
      for (unsigned left = nonzero(x + j); left; left &= left - 1) {
        const int64_t at = j + __builtin_ctz(left);
        channel[n] = (uint16_t)at;
        value[n++] = x[at];
      }
    }
#endif
    for (; j < c->channels; j++) {
      channel[n] = (uint16_t)j;
      value[n] = x[j];
      n += x[j] != 0.0f;
    }
    c->count[p] = (uint16_t)n;
    total += n;
  }
  return total;
}

/* The sum of what a list names, `lanes` lanes of outputs from `low`; 0 lanes are half a one. */
static inline __attribute__((always_inline)) void add(const Convolution *c, int64_t n,
                                                      const uint16_t *channel, const float *value,
                                                      const float *weight, float *out,
                                                      const int lanes) {
  if (lanes == 0) {
    Half sum = *(const Half *)out;
    for (int64_t j = 0; j < n; j++)
      sum += value[j] * *(const Half *)(weight + (int64_t)channel[j] * c->outs);
    *(Half *)out = sum;
    return;
  }
  Lane sum[8];
  for (int i = 0; i < lanes; i++) sum[i] = *(const Lane *)(out + i * LANE);
  for (int64_t j = 0; j < n; j++) {
    const float *w = weight + (int64_t)channel[j] * c->outs;
    const float v = value[j];
    for (int i = 0; i < lanes; i++) sum[i] += v * *(const Lane *)(w + i * LANE);
  }
  for (int i = 0; i < lanes; i++) *(Lane *)(out + i * LANE) = sum[i];
}

/* One kernel position for output pixels [left, right) of one row: `lanes` lanes of outputs. */
static inline __attribute__((always_inline)) void gather(const Convolution *c, int64_t image,
                                                         int64_t row, int64_t out_row,
                                                         int64_t left, int64_t right, int64_t kx,
                                                         const float *weight, int64_t low,
                                                         const int lanes) {
  for (int64_t ox = left; ox < right; ox++) {
    const int64_t p = (image * c->height + row) * c->width + ox * c->stride + kx - c->pad_width;
    const int64_t n = c->count[p];
    if (n == 0) continue;
    const uint16_t *channel = c->channel + p * c->channels;
    const float *value = c->value + p * c->channels;
    float *out = c->out + ((image * c->out_height + out_row) * c->out_width + ox) * c->outs + low;
    add(c, n, channel, value, weight + low, out, lanes);
  }
}

/* Smallest and one past the largest output place whose input place lies inside. */
static inline int64_t first_inside(int64_t k, int64_t pad, int64_t stride) {
  return k >= pad ? 0 : (pad - k + stride - 1) / stride;
}
static inline int64_t end_inside(int64_t k, int64_t pad, int64_t stride, int64_t size, int64_t outs) {
  const int64_t last = size - 1 + pad - k;
  const int64_t end = last < 0 ? 0 : last / stride + 1;
  return end < outs ? end : outs;
}

static inline __attribute__((always_inline)) void strip(const Convolution *c, int64_t image,
                                                        int64_t end_image, int64_t top,
                                                        int64_t bottom, int64_t low,
                                                        const int lanes) {
  for (int64_t ky = 0; ky < c->kernel_height; ky++) {
    int64_t y0 = first_inside(ky, c->pad_height, c->stride);
    int64_t y1 = end_inside(ky, c->pad_height, c->stride, c->height, c->out_height);
    if (y0 < top) y0 = top;
    if (y1 > bottom) y1 = bottom;
    for (int64_t kx = 0; kx < c->kernel_width; kx++) {
      const int64_t x0 = first_inside(kx, c->pad_width, c->stride);
      const int64_t x1 = end_inside(kx, c->pad_width, c->stride, c->width, c->out_width);
      const float *weight = c->weight + (ky * c->kernel_width + kx) * c->channels * c->outs;
      for (int64_t i = image; i < end_image; i++)
        for (int64_t oy = y0; oy < y1; oy++)
          gather(c, i, oy * c->stride + ky - c->pad_height, oy, x0, x1, kx, weight, low, lanes);
    }
  }
}

/* The bias, or zeros, as outputs [low, high) of `pixels` pixels from `first`; or what is there. */
static void start(const Convolution *c, int64_t first, int64_t pixels, int64_t low, int64_t high) {
  const size_t size = (size_t)(high - low) * sizeof(float);
  if (c->onto) return;
  for (int64_t p = first; p < first + pixels; p++) {
    float *out = c->out + p * c->outs + low;
    if (c->bias)
      memcpy(out, c->bias + low, size);
    else
      memset(out, 0, size);
  }
}

/* Outputs [low, high) of rows [top, bottom) of some images. */
static void rows(const Convolution *c, int64_t image, int64_t end_image, int64_t top,
                 int64_t bottom, int64_t low, int64_t high) {
  for (int64_t i = image; i < end_image; i++)
    start(c, (i * c->out_height + top) * c->out_width, (bottom - top) * c->out_width, low, high);
  for (; low + 8 * LANE <= high; low += 8 * LANE) strip(c, image, end_image, top, bottom, low, 8);
  for (; low + 4 * LANE <= high; low += 4 * LANE) strip(c, image, end_image, top, bottom, low, 4);
  for (; low + 2 * LANE <= high; low += 2 * LANE) strip(c, image, end_image, top, bottom, low, 2);
  for (; low + LANE <= high; low += LANE) strip(c, image, end_image, top, bottom, low, 1);
  for (; low < high; low += HALF) strip(c, image, end_image, top, bottom, low, 0);
}

/* One value of one pixel added to every output it reaches; weight (KH, KW, O) of its channel. */
static inline __attribute__((always_inline)) void spread(const Convolution *c, float v,
                                                         const float *weight, float *out,
                                                         int64_t ky0, int64_t ky1, int64_t kx0,
                                                         int64_t kx1, const int lanes) {
  for (int64_t ky = ky0; ky < ky1; ky++)
    for (int64_t kx = kx0; kx < kx1; kx++) {
      const float *w = weight + (ky * c->kernel_width + kx) * c->outs;
      float *to = out - (ky * c->out_width + kx) * c->outs;
      if (lanes == 0) *(Half *)to += v * *(const Half *)w;
      for (int i = 0; i < lanes; i++)
        *(Lane *)(to + i * LANE) += v * *(const Lane *)(w + i * LANE);
    }
}

/* Output rows [top, bottom) of one image, value by value; stride 1, weight (C, KH, KW, O). */
static inline __attribute__((always_inline)) void scatter(const Convolution *c, int64_t image,
                                                          int64_t top, int64_t bottom,
                                                          const int lanes) {
  const int64_t positions = c->kernel_height * c->kernel_width;
  float *map = c->out + image * c->out_height * c->out_width * c->outs;
  start(c, (image * c->out_height + top) * c->out_width, (bottom - top) * c->out_width, 0, c->outs);
  for (int64_t y = 0; y < c->height; y++) {
    const int64_t down = y + c->pad_height; /* output row of kernel row 0 */
    const int64_t ky0 = down < bottom ? 0 : down - bottom + 1;
    const int64_t ky1 = down - top + 1 < c->kernel_height ? down - top + 1 : c->kernel_height;
    if (ky0 >= ky1) continue;
    for (int64_t x = 0; x < c->width; x++) {
      const int64_t right = x + c->pad_width;
      const int64_t kx0 = right < c->out_width ? 0 : right - c->out_width + 1;
      const int64_t kx1 = right + 1 < c->kernel_width ? right + 1 : c->kernel_width;
      const float *values = c->x + ((image * c->height + y) * c->width + x) * c->channels;
      float *out = map + (down * c->out_width + right) * c->outs;
      for (int64_t j = 0; j < c->channels; j++)
        if (values[j] != 0.0f)
          spread(c, values[j], c->weight + j * positions * c->outs, out, ky0, ky1, kx0, kx1, lanes);
    }
  }
}

/* A value's products with a 3 x 3 kernel, weight (3, 3, O), added to sums held in registers. */
static inline __attribute__((always_inline)) void hold(Lane sum[3][3][2], float v,
                                                       const float *weight, const int lanes) {
#pragma GCC unroll 3
  for (int ky = 0; ky < 3; ky++)
#pragma GCC unroll 3
    for (int kx = 0; kx < 3; kx++)
#pragma GCC unroll 2
      for (int i = 0; i < lanes; i++)
        sum[ky][kx][i] += v * *(const Lane *)(weight + ((ky * 3 + kx) * lanes + i) * LANE);
}

/* A part of the outputs: rows [top, bottom) of outputs from `low`. */
typedef struct {
  int64_t image, top, bottom, low;
} Part;

/* Sums of the kernel's column `kx` to their output pixels, in column `ox` of the rows it reaches. */
static inline __attribute__((always_inline)) void release(const Convolution *c, const Part *part,
                                                          Lane sum[3][3][2], int64_t down,
                                                          int64_t ox, const int kx,
                                                          const int lanes) {
  if (ox < 0 || ox >= c->out_width) return;
#pragma GCC unroll 3
  for (int ky = 0; ky < 3; ky++) {
    const int64_t oy = down - ky;
    if (oy < part->top || oy >= part->bottom) continue;
    const int64_t pixel = (part->image * c->out_height + oy) * c->out_width + ox;
    float *out = c->out + pixel * c->outs + part->low;
#pragma GCC unroll 2
    for (int i = 0; i < lanes; i++) *(Lane *)(out + i * LANE) += sum[ky][kx][i];
  }
}

/* Channels [first, end) of one input row; weight (end - first, 3, 3, lanes * LANE). */
static inline __attribute__((always_inline)) void slide(const Convolution *c, const Part *part,
                                                        int64_t y, int64_t first, int64_t end,
                                                        const float *weight, const int lanes) {
  const int64_t down = y + c->pad_height, size = 9 * lanes * LANE;
  const float *values = c->x + (part->image * c->height + y) * c->width * c->channels;
  Lane sum[3][3][2] = {0};
  for (int64_t x = 0; x < c->width; x++, values += c->channels) {
    int64_t j = first;
#ifdef __AVX2__
    for (; j + LANE <= end; j += LANE)
      for (unsigned left = nonzero(values + j); left; left &= left - 1) {
        const int64_t at = j + __builtin_ctz(left);
        hold(sum, values[at], weight + (at - first) * size, lanes);
      }
#endif
    for (; j < end; j++)
      if (values[j] != 0.0f) hold(sum, values[j], weight + (j - first) * size, lanes);
    release(c, part, sum, down, x + c->pad_width - 2, 2, lanes);
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ky++)
#pragma GCC unroll 2
      for (int i = 0; i < lanes; i++) {
        sum[ky][2][i] = sum[ky][1][i];
        sum[ky][1][i] = sum[ky][0][i];
        sum[ky][0][i] = (Lane){0};
      }
  }
  release(c, part, sum, down, c->width + c->pad_width - 2, 2, lanes);
  release(c, part, sum, down, c->width + c->pad_width - 1, 1, lanes);
}

/* One part, blocks of channels one after the other: the weights of a block stay in the cache. */
static inline __attribute__((always_inline)) void held(const Convolution *c, const Part *part,
                                                       const int lanes) {
  const int64_t strip = lanes * LANE;
  start(c, (part->image * c->out_height + part->top) * c->out_width,
        (part->bottom - part->top) * c->out_width, part->low, part->low + strip);
  int64_t y0 = part->top - c->pad_height, y1 = part->bottom + 2 - c->pad_height;
  if (y0 < 0) y0 = 0;
  if (y1 > c->height) y1 = c->height;
  for (int64_t first = 0; first < c->channels; first += CHANNELS) {
    const int64_t end = first + CHANNELS < c->channels ? first + CHANNELS : c->channels;
    const float *weight = c->weight + (part->low / strip * c->channels + first) * 9 * strip;
    for (int64_t y = y0; y < y1; y++) slide(c, part, y, first, end, weight, lanes);
  }
}

/* Rows of a part: bands of an image where there are too few images and strips for the threads. */
static int64_t band(const Convolution *c, int64_t parts) {
  const int64_t wanted = (4 * c->threads + parts - 1) / parts;
  const int64_t rows = (c->out_height + wanted - 1) / wanted;
  return rows < BAND ? BAND : rows;
}

/* 3 x 3 kernels of stride 1; outs is a multiple of `strip`, which is one or two lanes. */
void transpike_hold(const Convolution *c, int64_t strip) {
  const int64_t strips = c->outs / strip, tall = band(c, c->images * strips);
  const int64_t bands = (c->out_height + tall - 1) / tall;
#pragma omp parallel for schedule(dynamic, 1) num_threads(c->threads) if (c->threads > 1)
  for (int64_t task = 0; task < c->images * bands * strips; task++) {
    const int64_t top = task / strips % bands * tall;
    const int64_t bottom = top + tall < c->out_height ? top + tall : c->out_height;
    const Part part = {task / strips / bands, top, bottom, task % strips * strip};
    if (strip == LANE) held(c, &part, 1);
    else held(c, &part, 2);
  }
}

/* Other kernels of stride 1; outs is 8, 16 or 32. */
void transpike_scatter(const Convolution *c) {
  const int64_t tall = band(c, c->images), bands = (c->out_height + tall - 1) / tall;
#pragma omp parallel for schedule(dynamic, 1) num_threads(c->threads) if (c->threads > 1)
  for (int64_t task = 0; task < c->images * bands; task++) {
    const int64_t image = task / bands, top = task % bands * tall;
    const int64_t bottom = top + tall < c->out_height ? top + tall : c->out_height;
    if (c->outs < LANE) scatter(c, image, top, bottom, 0);
    else if (c->outs == LANE) scatter(c, image, top, bottom, 1);
    else if (c->outs == 2 * LANE) scatter(c, image, top, bottom, 2);
    else scatter(c, image, top, bottom, 4);
  }
}

/* The convolution from lists that `transpike_list` filled; outs is a multiple of 8. */
void transpike_convolve(const Convolution *c) {
  const int64_t map = c->out_height * c->out_width;
  const int64_t together = map >= STRIP ? 1 : (STRIP * 4 + map - 1) / map;
  const int64_t tall = map >= STRIP ? (STRIP + c->out_width - 1) / c->out_width : c->out_height;
  const int64_t groups = (c->images + together - 1) / together;
  const int64_t strips = (c->out_height + tall - 1) / tall;
  /* Outputs are shared out, too, where there is little else to share. */
  const int64_t few = groups * strips < 4 * c->threads, block = few ? 8 * LANE : c->outs;
  const int64_t blocks = (c->outs + block - 1) / block;
#pragma omp parallel for schedule(dynamic, 1) num_threads(c->threads) if (c->threads > 1)
  for (int64_t task = 0; task < groups * strips * blocks; task++) {
    const int64_t low = task % blocks * block, high = low + block < c->outs ? low + block : c->outs;
    const int64_t image = task / blocks / strips * together, top = task / blocks % strips * tall;
    const int64_t end = image + together < c->images ? image + together : c->images;
    const int64_t bottom = top + tall < c->out_height ? top + tall : c->out_height;
    rows(c, image, end, top, bottom, low, high);
  }
}
