#include "cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include "core/base/check.h"
#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

// The driver's function: asked for by name, so that programs link without the driver's library.
decltype(&cuTensorMapEncodeTiled) EncodeTiled() {
  static const auto function = [] {
    void* pointer = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &pointer, 12000,
                                                cudaEnableDefault, &result));
    PENSTOCK_CHECK(result == cudaDriverEntryPointSuccess);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(pointer);
  }();
  return function;
}

}  // namespace

CUtensorMap MakeTensorMap(const void* matrix, DataType type, int64_t rows, int64_t columns,
                          int box_rows, int box_columns) {
  PENSTOCK_CHECK(type == DataType::kF16 || type == DataType::kBF16);
  PENSTOCK_CHECK(box_columns == 32 || box_columns == 64);
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns),
                            static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result = EncodeTiled()(
      &map,
      type == DataType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      2, const_cast<void*>(matrix), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      box_columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  PENSTOCK_CHECK(result == CUDA_SUCCESS);
  return map;
}

CUtensorMap MakePlainMap(const void* matrix, int64_t rows, int64_t columns, int box_rows,
                         int box_columns) {
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns),
                            static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result = EncodeTiled()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(matrix), sizes, strides, box,
      steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  PENSTOCK_CHECK(result == CUDA_SUCCESS);
  return map;
}

CUtensorMap MakeGatedMap(const void* weight, int64_t width, int64_t columns, int box_rows) {
  PENSTOCK_CHECK(columns % 64 == 0 && width % 8 == 0 && box_rows % 16 == 0);
  CUtensorMap map;
  const auto row_bytes = static_cast<cuuint64_t>(columns) * 2;
  const auto rows = static_cast<cuuint64_t>(width);
  const cuuint64_t sizes[] = {64, 8, static_cast<cuuint64_t>(columns) / 64, 2, rows / 8};
  const cuuint64_t strides[] = {row_bytes, 128, rows * row_bytes, 8 * row_bytes};
  const cuuint32_t box[] = {64, 8, 1, 2, static_cast<cuuint32_t>(box_rows) / 16};
  const cuuint32_t steps[] = {1, 1, 1, 1, 1};
  const CUresult result =
      EncodeTiled()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, const_cast<void*>(weight), sizes,
                    strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  PENSTOCK_CHECK(result == CUDA_SUCCESS);
  return map;
}

}  // namespace penstock::cuda
