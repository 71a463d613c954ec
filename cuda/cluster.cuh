// Clusters: blocks that run at the same time on multiprocessors beside each other and reach each
// other's shared memory (PTX ISA: barrier.cluster, mapa, multicast copies). A block's shared memory
// may be reached from when it has begun until it ends: blocks meet before and after.
#pragma once

#include "cuda/bulk_copy.cuh"

namespace penstock::cuda {

__device__ __forceinline__ int ClusterRank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Every thread of every block arrives, then waits; what was written before is visible after.
__device__ __forceinline__ void ArriveAtCluster() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void WaitForCluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Where the block of that rank has what this block has at `address`.
__device__ __forceinline__ uint32_t AddressIn(uint32_t address, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
__device__ __forceinline__ float4 LoadFrom(uint32_t cluster_address) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(cluster_address)
               : "memory");
  return value;
}
// Arrives at another block's barrier.
__device__ __forceinline__ void ArriveAt(uint32_t cluster_address) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(cluster_address)
               : "memory");
}

// TensorLoad into every block of `ranks`, a bit each, at the same place; each one's barrier at that
// place counts the bytes.
__device__ __forceinline__ void TensorLoadToAll(void* shared, const void* map, int column, int row,
                                                uint64_t* barrier, unsigned ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(column), "r"(row),
      "h"(static_cast<uint16_t>(ranks))
      : "memory");
}

}  // namespace penstock::cuda
