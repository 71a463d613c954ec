// Clusters: blocks that run at the same time on multiprocessors beside each other and reach each
// other's shared memory (PTX ISA: barrier.cluster, mapa, st.async, multicast copies). A block's
// shared memory may be reached from when it has begun until it ends: blocks meet before, and none
// ends while it is still to be reached.
#pragma once

#include "cuda/bulk_copy.cuh"

namespace penstock::cuda {

// Every thread of every block arrives, then waits: barriers that were made and fenced before
// (FenceBarriers) can be used after. Nothing else is made visible: a release would wait for all of
// a thread's stores, device memory's too.
__device__ __forceinline__ void ArriveAtCluster() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
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
// Arrives at another block's barrier, and says nothing of this thread's stores: for slots that
// tensor copies fill and tensor cores read.
__device__ __forceinline__ void ArriveAt(uint32_t barrier) {
  asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier)
               : "memory");
}
// Stores into another block's shared memory; its barrier counts the 16 bytes.
__device__ __forceinline__ void StoreAt(uint32_t address, float a, float b, float c, float d,
                                        uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(address),
      "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
      : "memory");
}
// Wait (bulk_copy.cuh) for what other blocks have stored.
__device__ __forceinline__ void WaitForStores(uint64_t* barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// Fetches a map that this kernel's copies will use.
__device__ __forceinline__ void PrefetchMap(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// TensorLoad of what is read once, by EvictFirst()'s policy.
__device__ __forceinline__ void TensorLoad(void* shared, const void* map, int column, int row,
                                           uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(column), "r"(row), "l"(policy)
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
