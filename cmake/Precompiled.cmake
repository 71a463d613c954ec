# precompile(<target>), precompile_tests(): what nearly every source reads is parsed once a library
# and once for all tests. Sources include what they use all the same: scripts/lint reads them without.
set(PENSTOCK_COMMON_HEADERS
  <algorithm> <cstdint> <functional> <map> <memory> <optional> <string> <utility> <vector>
  <absl/status/statusor.h> <absl/strings/str_cat.h>)

# So that ccache takes part.
add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)

function(precompile target)
  target_precompile_headers(${target} PRIVATE ${PENSTOCK_COMMON_HEADERS})
endfunction()

# Makes penstock_test_headers, from which programs of tests reuse (penstock_test does).
function(precompile_tests)
  set(empty ${CMAKE_CURRENT_BINARY_DIR}/precompiled.cc)
  file(WRITE ${empty} "")
  add_library(penstock_test_headers OBJECT ${empty})
  target_link_libraries(penstock_test_headers PRIVATE penstock_core GTest::gtest)
  target_precompile_headers(penstock_test_headers PRIVATE ${PENSTOCK_COMMON_HEADERS}
                            <deque> <random> <thread> <gtest/gtest.h>)
  # The compiler takes headers only with the flags that they were compiled with: a program's.
  set_target_properties(penstock_test_headers PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(penstock_test_headers PRIVATE -fPIE ${PENSTOCK_TEST_OPTIONS})
endfunction()
