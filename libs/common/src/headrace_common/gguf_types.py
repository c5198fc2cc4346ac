"""The types of GGUF: how tensors are stored, and what mixtures of them are called."""

from __future__ import annotations

from types import MappingProxyType

_PLAIN = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}
_OF_32 = {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 9: 36, 20: 18, 39: 17}
_OF_256 = {
    **dict(zip(range(10, 20), (84, 110, 144, 176, 210, 292, 66, 74, 98, 50), strict=True)),
    **dict(zip((21, 22, 23, 29, 34, 35), (110, 82, 136, 56, 54, 66), strict=True)),
}

BLOCKS = MappingProxyType(
    {
        kind: (elements, size)
        for elements, sizes in ((1, _PLAIN), (32, _OF_32), (256, _OF_256))
        for kind, size in sizes.items()
    }
)
"""Elements and bytes of one block, by the number of a tensor's type."""

_NAMES = (
    "F32 F16 Q4_0 Q4_1 - - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS IQ2_XS "
    "Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 - - - TQ1_0 TQ2_0 MXFP4_MOE"
)
FILE_TYPES = MappingProxyType({number: name for number, name in enumerate(_NAMES.split()) if name != "-"})
"""What most tensors of a file are stored as, by `general.file_type`."""
