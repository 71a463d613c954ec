# precompile(<target> [<header>...]), precompile_tests(): what nearly every source reads is parsed
# once a library and once or twice for all tests. Sources include what they use all the same:
# scripts/lint reads them without.
set(PENSTOCK_COMMON_HEADERS
  <algorithm> <cstdint> <functional> <map> <memory> <optional> <string> <utility> <vector>
  <absl/status/statusor.h> <absl/strings/str_cat.h>)

# So that ccache takes part.
add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)

function(precompile target)
  target_precompile_headers(${target} PRIVATE ${PENSTOCK_COMMON_HEADERS} ${ARGN})
endfunction()

# test_headers(<name> LIBS <lib>... HEADERS <header>... OPTIONS <flag>...): a target from which
# programs of tests reuse.
function(test_headers name)
  cmake_parse_arguments(arg "" "" "LIBS;HEADERS;OPTIONS" ${ARGN})
  set(empty ${CMAKE_CURRENT_BINARY_DIR}/precompiled.cc)
  file(WRITE ${empty} "")
  add_library(${name} OBJECT ${empty})
  target_link_libraries(${name} PRIVATE ${arg_LIBS} GTest::gtest)
  target_precompile_headers(${name} PRIVATE ${PENSTOCK_COMMON_HEADERS}
                            <deque> <random> <thread> <gtest/gtest.h> ${arg_HEADERS})
  # The compiler takes headers only with the flags that they were compiled with: a program's.
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${name} PRIVATE -fPIE ${arg_OPTIONS})
endfunction()

# penstock_test chooses: the last one for tests of what speaks gRPC.
function(precompile_tests)
  test_headers(penstock_kernel_test_headers LIBS penstock_core
               OPTIONS ${PENSTOCK_KERNEL_TEST_OPTIONS})
  test_headers(penstock_test_headers LIBS penstock_core OPTIONS ${PENSTOCK_TEST_OPTIONS})
  if(PENSTOCK_SERVICE)
    test_headers(penstock_service_test_headers LIBS penstock_worker HEADERS <grpcpp/grpcpp.h>
                 OPTIONS ${PENSTOCK_TEST_OPTIONS})
  endif()
endfunction()
