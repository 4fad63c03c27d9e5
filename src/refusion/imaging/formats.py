"""Picture files: reading, writing, decoding and encoding, in one place for all that use them.

A picture is upright after reading, stays in the file's own RGB or grey profile, and is written back with its
depth, profile, alpha, grey and metadata, as far as the format can store them:

    .png   .tif  .tiff   8 or 16 bit, grey, alpha, lossless
    .webp                8 bit, alpha, lossless (lossy WebP would halve the colour resolution)
    .jpg   .jpeg         8 bit, grey, quality 95, 4:4:4; alpha is flattened on white
    .avif                8 or 12 bit, alpha, quality 90, 4:4:4; 10 and 12 bit are read as 16

    .gif   .bmp   .jp2   .jxl   .heic   read only, where libvips can

CMYK becomes sRGB, palettes are expanded, floating-point samples are read as 16 bit, and of several pages or
frames the first is taken. What is not the whole of a file is a notice of the picture. libvips hangs in a
forked process whose parent has used it: spawn workers.
"""

from refusion.imaging.filetypes import READABLE, SUFFIXES, Admit, Header, is_picture, writable_suffix
from refusion.imaging.reading import MAX_PIXELS, decode, read
from refusion.imaging.writing import encode, unkept, write, write_gif

__all__ = [
    "MAX_PIXELS",
    "READABLE",
    "SUFFIXES",
    "Admit",
    "Header",
    "decode",
    "encode",
    "is_picture",
    "read",
    "unkept",
    "writable_suffix",
    "write",
    "write_gif",
]
