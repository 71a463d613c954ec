# Every library from Debian 12. gRPC, protobuf and abseil are linked statically and hidden
# (--exclude-libs), so that the programs run on machines without them and so that Debian's
# libsentencepiece, which exports a protobuf of its own, can live beside them.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED libpcre2-8)
find_package(hwy CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)

add_library(penstock_pcre2 INTERFACE)
target_link_libraries(penstock_pcre2 INTERFACE -l:libpcre2-8.a)
add_library(penstock_absl INTERFACE)
add_library(penstock_rpc INTERFACE)
add_library(penstock_log INTERFACE)

# Clang's sanitizers are archives too; hidden, their malloc would not be that of libstdc++.
set(hide_archives -Wl,--exclude-libs,ALL)
if(PENSTOCK_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  set(hide_archives "")
endif()

# as_static(<variable> <flags>...): -lX becomes -l:libX.a where Debian ships the archive.
function(as_static out)
  set(result "")
  foreach(flag IN LISTS ARGN)
    string(REGEX REPLACE "^-l" "" name "${flag}")
    set(archive /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/lib${name}.a)
    if(flag MATCHES "^-l" AND EXISTS ${archive} AND NOT name MATCHES "^(dl|rt|pthread|m|atomic)$")
      list(APPEND result "-l:lib${name}.a")
    else()
      list(APPEND result "${flag}")
    endif()
  endforeach()
  set(${out} "${result}" PARENT_SCOPE)
endfunction()

# link_as_group(<target> <flags>...): the linker goes round until nothing is missing. One item, since
# CMake would drop the flags of one group that another target's group has had.
function(link_as_group target)
  string(JOIN " " flags ${ARGN})
  target_link_libraries(${target} INTERFACE "-Wl,--start-group ${flags} -Wl,--end-group"
                                            Threads::Threads)
endfunction()

pkg_check_modules(ABSL REQUIRED absl_status absl_statusor absl_strings absl_str_format absl_time
                  absl_flat_hash_map absl_flat_hash_set)
set(absl_flags ${ABSL_STATIC_LDFLAGS})
list(REMOVE_DUPLICATES absl_flags)
list(FILTER absl_flags EXCLUDE REGEX "push-state|pop-state|as-needed")
as_static(absl_libs ${absl_flags})
link_as_group(penstock_absl ${absl_libs})
target_link_options(penstock_absl INTERFACE ${hide_archives})

if(PENSTOCK_SERVICE)
  find_package(Protobuf REQUIRED)
  find_package(CLI11 CONFIG REQUIRED)
  find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
  pkg_check_modules(GRPC REQUIRED grpc++)
  set(grpc_flags ${GRPC_STATIC_LDFLAGS})
  list(REMOVE_DUPLICATES grpc_flags)
  list(FILTER grpc_flags EXCLUDE REGEX "push-state|pop-state|as-needed")
  as_static(grpc_libs -lgrpc++_reflection -lprotobuf ${grpc_flags})
  link_as_group(penstock_rpc ${grpc_libs})
  target_link_options(penstock_rpc INTERFACE ${hide_archives})
endif()

# Header-only, in the one .cc that logs: Debian has no archive of spdlog or fmt.
find_package(spdlog CONFIG REQUIRED)
target_compile_definitions(penstock_log INTERFACE SPDLOG_FMT_EXTERNAL FMT_HEADER_ONLY)

if(PENSTOCK_TESTS)
  find_package(GTest CONFIG REQUIRED)
  find_package(benchmark CONFIG REQUIRED)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
endif()
