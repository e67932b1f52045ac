"""Binary masks of the slices of a volume."""

from transpike.segment.scores import Mask as Mask
from transpike.segment.scores import PixelCounts as PixelCounts
from transpike.segment.slices import Segmented as Segmented
from transpike.segment.slices import segment as segment
from transpike.segment.tiles import fitting_tile as fitting_tile
from transpike.segment.tiles import resized as resized

__all__ = ["Mask", "PixelCounts", "Segmented", "fitting_tile", "resized", "segment"]
