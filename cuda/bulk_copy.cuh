// Hopper's bulk copies from device memory into shared memory, and the barriers in shared memory
// that say when they are done (PTX ISA: cp.async.bulk, mbarrier). One thread's instruction moves
// kilobytes without registers, so that a block can have a hundred of them under way.
#pragma once

#include <cstdint>

namespace penstock::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Completes a phase when `arrivals` threads have arrived and the bytes expected of it have come.
// REQUIRES: one thread makes it, then FenceBarriers(), then the block synchronises.
__device__ __forceinline__ void MakeBarrier(uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals));
}
__device__ __forceinline__ void FenceBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
// Arrives, and makes this phase wait for so many bytes.
__device__ __forceinline__ void ArriveExpecting(uint64_t* barrier, unsigned bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}

// Waits until the phase of that parity (0, 1, 0, ...) is complete.
__device__ __forceinline__ void Wait(uint64_t* barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// Where a thread is in a ring of so many stages, and the parity of the barriers' phase there.
template <int kStages>
struct RingPlace {
  int slot = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void Next() {
    if (++slot == kStages) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// Level 2's policy for what is read once: first to be evicted.
__device__ __forceinline__ uint64_t EvictFirst() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Copies `bytes` from device memory, and counts them on the barrier. REQUIRES: all multiples of 16.
__device__ __forceinline__ void BulkLoad(void* shared, const void* global, unsigned bytes,
                                         uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(barrier)), "l"(policy)
      : "memory");
}

// Fetches a tensor map that copies of this kernel will use, a parameter of it.
__device__ __forceinline__ void PrefetchMap(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies the box of a tensor map (tensor_map.h) that begins at that column and row, and counts its
// bytes on the barrier.
__device__ __forceinline__ void TensorLoad(void* shared, const void* map, int column, int row,
                                           uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(column), "r"(row)
      : "memory");
}

// The same, by EvictFirst()'s policy.
__device__ __forceinline__ void TensorLoad(void* shared, const void* map, int column, int row,
                                           uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(column), "r"(row), "l"(policy)
      : "memory");
}

// Between a thread's ordinary writes to shared memory and what reads them by another path: bulk
// copies, a warpgroup's products. Others' threads synchronise after it.
__device__ __forceinline__ void FenceSharedWrites() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Between a thread's ordinary reads of shared memory and its word (Arrive) that a bulk copy may
// write there. Without it a read that is still under way can meet the new bytes: the copy engine
// writes past the ordinary path. Each reading thread arrives itself: racecheck follows nothing
// else.
__device__ __forceinline__ void FenceReadsBeforeBulkWrites() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Between a thread's ordinary writes to device memory and a bulk copy that reads them; another
// thread that issues the copy synchronises after it.
__device__ __forceinline__ void FenceGlobalWritesBeforeBulkReads() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

// Fetches towards level 2 and does not wait. REQUIRES: multiples of 16.
__device__ __forceinline__ void BulkPrefetch(const void* global, unsigned bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}

// True in one lane of the warp, which the compiler knows to be one: it then issues a bulk copy by a
// single instruction instead of a loop over lanes. REQUIRES: all lanes take part.
__device__ __forceinline__ bool ElectOne() {
  uint32_t chosen;
  asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }"
               : "=r"(chosen));
  return chosen != 0;
}

}  // namespace penstock::cuda
