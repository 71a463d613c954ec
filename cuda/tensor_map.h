// Maps for Hopper's tensor copies (cp.async.bulk.tensor): which matrix in device memory, what piece
// of it a copy moves, how it lies in shared memory. Thread-safe; an error ends the process.
#pragma once

#include <cuda.h>

#include "core/tensor/tensor.h"

namespace penstock::cuda {

// Of a dense matrix [rows, columns] of f16 or bf16 in device memory; a copy moves
// [box_rows, box_columns] in the swizzled order of the width of the box's rows, which is 64 or 128
// bytes. A kernel takes it as a __grid_constant__ parameter.
// REQUIRES: columns * 2 bytes and the address are multiples of 16.
CUtensorMap MakeTensorMap(const void* matrix, DataType type, int64_t rows, int64_t columns,
                          int box_rows, int box_columns);

// Of a dense matrix of bf16, for copies that leave its order as it is, such as towards level 2.
// REQUIRES: columns * 2 bytes and the address are multiples of 16; sides of a box are up to 256.
CUtensorMap MakePlainMap(const void* matrix, int64_t rows, int64_t columns, int box_rows,
                         int box_columns);

// Of a dense weight [gate's rows, then up's: 2 * width, columns] of bf16, as [64 columns, 8 rows,
// columns / 64, gate and up, width / 8]: a copy moves 64 columns of box_rows of both, eight of
// gate's and eight of up's in turns; swizzled.
// REQUIRES: columns are a multiple of 64, width of 8, box_rows of 16; the address is one of 16.
CUtensorMap MakeGatedMap(const void* weight, int64_t width, int64_t columns, int box_rows);

}  // namespace penstock::cuda
