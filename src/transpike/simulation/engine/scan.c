/* One population of neurons through all timesteps of a chunk, in one pass over memory.
 *
 * transpike/engine/native.py compiles it once. The arithmetic is, operation by operation, that of
 * transpike.spiking.neuron.fire; -ffp-contract=off keeps it so.
 *
 * Layout: currents and outputs (L, B, N) float or bfloat16, time first, the N neurons of a sample
 * in memory order; state (B, N) float; step, offset, bound and start (N) float.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Neurons per block: state and constants of a block stay in the first-level cache. */
enum { BLOCK = 1024 };

enum { UNSIGNED = 0, SIGNED = 1, TELESCOPED = 2 };

typedef struct {
  const void *current;  /* first operand, activation units */
  const void *other;    /* added to it, or NULL */
  int64_t current_stride, other_stride; /* values from one timestep to the next; 0: constant */
  const float *offset;  /* added to current / step, or NULL; units of the step */
  const float *step;
  const float *bound;   /* c/d of a bounded activation, or infinity; NULL: no limit, unit code */
  const float *start;   /* initial membrane; read only with `bound` */
  float *membrane;      /* in and out */
  float *total;         /* in and out; NULL where no rule needs it */
  void *out;            /* counts times step; may be the first operand */
  float *membranes;     /* (L, B, N) membranes after every timestep, or NULL */
  int64_t *counts;      /* (L, B) += spikes */
  int64_t length, batch, neurons;
  int64_t first;        /* timesteps done before */
  float max_count;
  float levels;         /* of differential coding, or 0 */
  float hysteresis;     /* steps below 0 before a count is taken back; with levels only */
  float unit;           /* step of these timesteps in units of the state, a power of two */
  float shift;          /* (unit - 1) v0, so that a larger step is rounded around v0, too */
  int32_t kind, binary; /* binary: a count is sent as the bits set in it */
  int32_t half_current, half_other, half_out; /* bfloat16 instead of float */
  int32_t threads;
} Scan;

static inline void widen(float *to, const uint16_t *from, int64_t size) {
  for (int64_t j = 0; j < size; j++) {
    const uint32_t bits = (uint32_t)from[j] << 16;
    memcpy(to + j, &bits, sizeof bits);
  }
}

/* To bfloat16, to nearest even, as torch rounds. */
static inline void narrow(uint16_t *to, const float *from, int64_t size) {
  for (int64_t j = 0; j < size; j++) {
    uint32_t bits;
    memcpy(&bits, from + j, sizeof bits);
    to[j] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
}

static inline float larger(float a, float b) { return a < b ? b : a; }
static inline float smaller(float a, float b) { return a > b ? b : a; }

static inline int32_t bits_set(int32_t n) {
  n = n - ((n >> 1) & 0x55555555);
  n = (n & 0x33333333) + ((n >> 2) & 0x33333333);
  n = (n + (n >> 4)) & 0x0f0f0f0f;
  n = n + (n >> 8);
  return (n + (n >> 16)) & 0x3f;
}

/* Timestep t of `size` neurons; kind and has_* are constants after inlining. Returns spikes. */
static inline __attribute__((always_inline)) int32_t update(
    const Scan *s, float t, int64_t size, const float *x, const float *y, const float *step,
    const float *offset, const float *bound, const float *start, float *v, float *so_far,
    float *out, const int kind, const int has_other, const int has_offset, const int has_limit) {
  const float k = s->max_count, h = s->hysteresis;
  const float unit = s->unit, shift = s->shift, per_unit = 1.0f / unit;
  const float most = s->levels > 0 ? s->levels : k * t, scale = s->levels > 0 ? 1.0f : t;
  const int binary = has_limit && s->binary, with_total = kind != UNSIGNED || has_limit;
  int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < size; j++) {
    float drive = x[j];
    if (has_other) drive = drive + y[j];
    drive = drive / step[j];
    if (has_offset) drive = drive + offset[j];
    float membrane = v[j] + drive;
    float count = floorf(membrane), limit = most, before = 0.0f;
    if (has_limit) limit = smaller(larger(floorf(bound[j] * scale + start[j]), 0.0f), most);
    if (kind == SIGNED && has_limit) {
      const float steps = (membrane + shift) * per_unit;
      count = floorf(larger(steps, 0.0f)) + smaller(floorf(steps + h), 0.0f);
    }
    if (with_total) before = so_far[j];
    if (kind == TELESCOPED) {
      count = smaller(larger(count, 0.0f), limit) - before;
    } else {
      count = smaller(larger(count, kind == SIGNED ? -k : 0.0f), k);
      if (kind == SIGNED) count = larger(count, has_limit ? -floorf(before * per_unit) : -before);
      if (has_limit) count = smaller(count, floorf((limit - before) * per_unit));
      membrane = membrane - count * unit;
    }
    if (with_total) so_far[j] = before + count * unit;
    v[j] = membrane;
    out[j] = count * unit * step[j];
    const int32_t magnitude = (int32_t)fabsf(count);
    sum += binary ? bits_set(magnitude) : magnitude;
  }
  return sum;
}

/* All timesteps of neurons [low, low + size) of one sample. */
static inline __attribute__((always_inline)) void block(
    const Scan *s, int64_t sample, int64_t low, int64_t size, const int kind, const int has_other,
    const int has_offset, const int has_limit) {
  float first[BLOCK], second[BLOCK], sent[BLOCK];
  const int64_t at = sample * s->neurons + low, volume = s->batch * s->neurons;
  for (int64_t index = 0; index < s->length; index++) {
    const int64_t in = index * s->current_stride + at, in2 = index * s->other_stride + at;
    const int64_t to = index * volume + at;
    const float *x = (const float *)s->current + in, *y = NULL;
    if (s->half_current) {
      widen(first, (const uint16_t *)s->current + in, size);
      x = first;
    }
    if (has_other) {
      y = (const float *)s->other + in2;
      if (s->half_other) {
        widen(second, (const uint16_t *)s->other + in2, size);
        y = second;
      }
    }
    const int64_t sum = update(
        s, (float)(s->first + index + 1), size, x, y, s->step + low,
        has_offset ? s->offset + low : NULL, has_limit ? s->bound + low : NULL,
        has_limit ? s->start + low : NULL, s->membrane + at, s->total ? s->total + at : NULL,
        s->half_out ? sent : (float *)s->out + to, kind, has_other, has_offset, has_limit);
    if (s->half_out) narrow((uint16_t *)s->out + to, sent, size);
    if (s->membranes)
      memcpy(s->membranes + to, s->membrane + at, (size_t)size * sizeof(float));
#pragma omp atomic
    s->counts[index * s->batch + sample] += sum;
  }
}

typedef void (*Block)(const Scan *, int64_t, int64_t, int64_t);

/* One function per setting, named by its digits: kind, other, offset, limit. */
#define DEFINE(kind, other, offset, limit)                                                  \
  static void block_##kind##other##offset##limit(const Scan *s, int64_t sample, int64_t low, \
                                                 int64_t size) {                            \
    block(s, sample, low, size, kind, other, offset, limit);                                \
  }
#define NAME(kind, other, offset, limit) block_##kind##other##offset##limit,
#define EACH_LIMIT(use, kind, other, offset) use(kind, other, offset, 0) use(kind, other, offset, 1)
#define EACH_OFFSET(use, kind, other) EACH_LIMIT(use, kind, other, 0) EACH_LIMIT(use, kind, other, 1)
#define EACH_OTHER(use, kind) EACH_OFFSET(use, kind, 0) EACH_OFFSET(use, kind, 1)
#define EACH(use) EACH_OTHER(use, 0) EACH_OTHER(use, 1) EACH_OTHER(use, 2)

EACH(DEFINE)
static const Block BLOCKS[] = {EACH(NAME)};

int64_t transpike_scan_size(void) { return (int64_t)sizeof(Scan); }

void transpike_scan(const Scan *s) {
  const Block run = BLOCKS[s->kind * 8 + (s->other != NULL) * 4 + (s->offset != NULL) * 2 +
                           (s->bound != NULL)];
  const int64_t per_sample = (s->neurons + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
  for (int64_t task = 0; task < s->batch * per_sample; task++) {
    const int64_t low = task % per_sample * BLOCK, left = s->neurons - low;
    run(s, task / per_sample, low, left < BLOCK ? left : BLOCK);
  }
}
