// Clusters: blocks that run at the same time on multiprocessors beside each other and reach each
// other's shared memory (PTX ISA: barrier.cluster, mapa, multicast copies). A block's shared memory
// may be reached from when it has begun until it ends: blocks meet before, and none ends while it
// is still to be reached.
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

// Arrives at the barrier that the block of that rank has at this address, and says nothing of this
// thread's stores: for slots that tensor copies fill and tensor cores read.
__device__ __forceinline__ void ArriveIn(int rank, const uint64_t* barrier) {
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(
          SharedAddress(barrier)),
      "r"(rank)
      : "memory");
}

// Copies slab `slab` of a box of MakeGatedMap's that begins at that group of eight rows, read once;
// counts its bytes on the barrier.
__device__ __forceinline__ void LoadGated(void* shared, const void* map, int slab, int group,
                                          uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {0, 0, %3, 0, %4}], [%2], %5;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(slab), "r"(group), "l"(policy)
      : "memory");
}
// Into every block of `ranks`, a bit each, at the same place; each one's barrier at that place
// counts the bytes.
__device__ __forceinline__ void LoadGatedToAll(void* shared, const void* map, int slab, int group,
                                               uint64_t* barrier, unsigned ranks, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {0, 0, %3, 0, %4}], [%2], %5, %6;" ::"r"(
          SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(slab), "r"(group),
      "h"(static_cast<uint16_t>(ranks)), "l"(policy)
      : "memory");
}

}  // namespace penstock::cuda
