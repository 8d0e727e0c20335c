#!/usr/bin/env python3
"""Write src/tensor/quant_grids_table.c: the codebooks of the IQ2 and IQ3 block formats, as small codes.

They are part of the format: every file in it refers to these entries by number. The values are read
from the decoder of the `gguf` Python package, and stored as indices into the few values that occur.

    make_grid_tables.py > src/tensor/quant_grids_table.c
"""
import numpy as np
from gguf import quants

print("/* Codebooks of the IQ2 and IQ3 formats; made by tools/goldens/make_grid_tables.py. */")
print('#include "tensor/quant_grids.h"')
for name, bits in (("IQ2_XXS", 2), ("IQ2_XS", 2), ("IQ2_S", 2), ("IQ3_XXS", 3), ("IQ3_S", 3)):
    cls = getattr(quants, name)
    cls.init_grid()
    grid = np.asarray(cls.grid).reshape(cls.grid_shape)
    values = {float(v): i for i, v in enumerate(cls.grid_map)}
    codes = [sum(values[float(v)] << (bits * i) for i, v in enumerate(row)) for row in grid]
    print(f"\nconst uint16_t ap_grid_{name.lower()}[{len(codes)}] = {{")
    for i in range(0, len(codes), 12):
        print("    " + ", ".join(f"0x{c:04x}" for c in codes[i:i + 12]) + ",")
    print("};")
