// Clusters: blocks that run at the same time on multiprocessors beside each other and reach each
// other's shared memory (PTX ISA: barrier.cluster, mapa, st.async). A block's shared memory may be
// reached from when it has begun until it ends: blocks meet before, and none ends while it is still
// to be reached.
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

}  // namespace penstock::cuda
