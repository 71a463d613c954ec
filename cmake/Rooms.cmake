# kernel(<stem>), penstock_test(<file>), penstock_python_test(<file>): the ways into the build.

# A kernel is four files of one stem: contract, CPU twin, device code, test.
function(kernel stem)
  set(root ${PROJECT_SOURCE_DIR})
  set(device cuda/kernels/${stem}.cu)
  foreach(file core/kernels/${stem}.h core/kernels/${stem}.cc ${device}
               tests/kernels/${stem}_test.cc)
    if(NOT EXISTS ${root}/${file})
      message(FATAL_ERROR "kernel(${stem}): ${file} is missing")
    endif()
  endforeach()
  set(sources ${root}/core/kernels/${stem}.cc)
  if(EXISTS ${root}/core/kernels/${stem}_simd.cc)
    list(APPEND sources ${root}/core/kernels/${stem}_simd.cc)
  endif()
  target_sources(penstock_core PRIVATE ${sources})
  # Nearly all of the tests' time: optimized also where the rest is built to be built fast. Fuzz
  # targets read and never compute. What these checks of pointers would find the address sanitizer
  # finds once memory is touched, and they make vector code five times as dear to build.
  if(PENSTOCK_SANITIZE)
    set(options -O2 -fno-sanitize=null,pointer-overflow,object-size)
    if(PENSTOCK_FUZZ)
      list(APPEND options -fno-sanitize=fuzzer-no-link)
    endif()
    set_source_files_properties(${sources} TARGET_DIRECTORY penstock_core
                                PROPERTIES COMPILE_OPTIONS "${options}"
                                           SKIP_PRECOMPILE_HEADERS ON)
  endif()
  set_property(GLOBAL APPEND PROPERTY PENSTOCK_KERNELS ${stem})
  if(PENSTOCK_CUDA)
    set_property(GLOBAL APPEND PROPERTY PENSTOCK_CUDA_KERNELS ${root}/${device})
  endif()
endfunction()

# Under a sanitizer, which makes a token some twenty times as dear, tests get more time.
if(PENSTOCK_SANITIZE)
  set(PENSTOCK_TEST_PATIENCE 5)
else()
  set(PENSTOCK_TEST_PATIENCE 1)
endif()
math(EXPR PENSTOCK_TEST_TIMEOUT "300 * ${PENSTOCK_TEST_PATIENCE}")
set(PENSTOCK_TEST_ENVIRONMENT
  "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/lsan_suppressions.txt:print_suppressions=0")

# Clang's sanitizers tell lines by this program, and Debian gives it a name that they do not look for.
find_program(LLVM_SYMBOLIZER NAMES llvm-symbolizer-14)
if(LLVM_SYMBOLIZER AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  list(APPEND PENSTOCK_TEST_ENVIRONMENT "ASAN_SYMBOLIZER_PATH=${LLVM_SYMBOLIZER}"
              "UBSAN_SYMBOLIZER_PATH=${LLVM_SYMBOLIZER}")
endif()

# Tests are compiled to be built fast: their time is spent in the libraries. But for kernels' tests,
# which compute each result a second time, and simulations, where all but the engine is the test's.
set(PENSTOCK_TEST_OPTIONS $<$<CONFIG:Release>:-Og>)
set(PENSTOCK_KERNEL_TEST_OPTIONS -O1)

# penstock_test(<path below tests/, without .cc> [LIBS ...] [LABELS ...]): one program, one ctest.
function(penstock_test path)
  cmake_parse_arguments(arg "" "" "LIBS;LABELS" ${ARGN})
  get_filename_component(name ${path} NAME)
  add_executable(${name} ${PROJECT_SOURCE_DIR}/tests/${path}.cc)
  target_link_libraries(${name} PRIVATE ${arg_LIBS} penstock_core GTest::gtest_main)
  set(headers penstock_test_headers)
  set(options ${PENSTOCK_TEST_OPTIONS})
  if(path MATCHES "^kernels/")
    set(headers penstock_kernel_test_headers)
    set(options ${PENSTOCK_KERNEL_TEST_OPTIONS})
  elseif(path MATCHES "^sim/")
    set(options $<$<CONFIG:Release>:-O1>)
  endif()
  if(arg_LIBS MATCHES "penstock_(frontend|worker|proto)")
    set(headers penstock_service_test_headers)
  endif()
  target_precompile_headers(${name} REUSE_FROM ${headers})
  target_compile_options(${name} PRIVATE ${options})
  target_compile_definitions(${name} PRIVATE
    PENSTOCK_TEST_MODEL="${PENSTOCK_MODEL}" PENSTOCK_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${PENSTOCK_TEST_TIMEOUT}
    ENVIRONMENT "${PENSTOCK_TEST_ENVIRONMENT}")
endfunction()

# penstock_python_test(<path below tests/, without .py> [LABELS ...]): one script, one ctest.
function(penstock_python_test path)
  cmake_parse_arguments(arg "" "" "LABELS" ${ARGN})
  get_filename_component(name ${path} NAME)
  add_test(NAME ${name} COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/tests/${path}.py)
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${PENSTOCK_TEST_TIMEOUT}
    ENVIRONMENT "${PENSTOCK_TEST_ENVIRONMENT};PYTHONDONTWRITEBYTECODE=1;PENSTOCK_TEST_PATIENCE=${PENSTOCK_TEST_PATIENCE}")
endfunction()
