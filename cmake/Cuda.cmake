# The CUDA language, for the preset that builds what cuda/ holds.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a-real CACHE STRING "GPUs to build for, as CMake names them")
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE)  # so that the next try looks again
  message(FATAL_ERROR "PENSTOCK_CUDA is on, but there is no working nvcc. Install the CUDA toolkit (13.0 "
                      "or newer), then put its bin folder on the PATH or name nvcc in CUDACXX; or use the "
                      "preset release, which needs none of it.")
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

# CMake 3.25 knows no C++20 flag for nvcc. A flag by add_compile_options() is not enough: CMake puts
# its own -std=c++17 behind it as soon as a library asks for any C++ standard, and the last one wins.
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)

add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Werror>
                    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
