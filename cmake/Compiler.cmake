# The language and the warnings, the same for every room; optimize().
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

find_program(CCACHE ccache)
if(CCACHE)
  # Precompiled headers (Precompiled.cmake) are told apart by what is in them.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()

add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wall>
                    $<$<COMPILE_LANGUAGE:CXX>:-Wextra>
                    $<$<COMPILE_LANGUAGE:CXX>:-Werror>
                    $<$<COMPILE_LANGUAGE:CXX>:-Wvla>)
# a * b + c is fused only where the code says so: which expressions a compiler fuses differs from
# function to function, and the same token must have the same bits in any batch.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
include_directories(${PROJECT_SOURCE_DIR})

if(PENSTOCK_SANITIZE)
  add_compile_options(-fsanitize=${PENSTOCK_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  # GCC 12 sees overflows in the checks that the sanitizers put in.
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow>
                      $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds>)
  add_link_options(-fsanitize=${PENSTOCK_SANITIZE})
  # Instruction sets between the least and those of today's machines: nothing would run them, and
  # checked vector code is dear to build.
  add_compile_definitions("HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4)")
else()
  # Hardening; the sanitizers bring their own.
  add_compile_options($<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:-D_FORTIFY_SOURCE=2>
                      $<$<COMPILE_LANGUAGE:CXX>:-fstack-protector-strong>)
  add_link_options(-Wl,-z,relro,-z,now)
endif()

# optimize(<target>): what does the work, also under the sanitizers, where all else is built to be
# built fast.
function(optimize target)
  if(PENSTOCK_SANITIZE)
    target_compile_options(${target} PRIVATE -O1)
  endif()
endfunction()
