// Programmatic edges into kernels that do not wait for their inputs, as cuBLASLt's do not
// (tests/spike/lt_edges.cu). Such a kernel may begin before the one ahead has ended if that one's
// results are written by then: a kernel that says LetNextBegin() nowhere and ends with
// WritesBeforeNext() (device.cuh) lets the next one begin once all its blocks have ended, and what
// they wrote is in level 2, where that one's loads look for it. A full edge waits longer: for the
// grid's end, and for the launch behind it.
//
// A kernel's launcher notes it while its stream is captured, and StepGraphs opens the edges out of
// what was noted. One capture at a time a thread. Errors: a failed CUDA call ends the process.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace penstock::cuda {

// Whether kernels of so many rows end so: those of a step that is a graph, whose next kernel is a
// product of cuBLASLt. Fewer rows go on with kernels of ours, which are to begin early.
bool EndsWithWrites(int64_t rows);

// The kernel that was launched last on the stream ends so. Nothing outside of OpenEdges' captures.
void NoteEndsWithWrites(cudaStream_t stream);

// Notes are taken from here on, by this thread.
void BeginNotes();
// The edges of the graph from kernels that were noted to other kernels become programmatic; ends
// the notes.
void OpenEdges(cudaGraph_t graph);

}  // namespace penstock::cuda
