# Fuzz targets, with clang's libFuzzer; scripts/fuzz builds and runs them and shows what they reach.
#
# penstock_fuzz(<name> MAX_LEN <bytes> [LIBS ...] COVERS <file>...): the program <name>_fuzz of
# tests/fuzz/<name>_fuzz.cc. Inputs are MAX_LEN bytes at most: as short as the seeds allow, since
# short inputs are fast ones. COVERS are the parser's own files, of whose lines it shall reach 90 %.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  message(FATAL_ERROR "PENSTOCK_FUZZ needs clang: configure with -DCMAKE_CXX_COMPILER=clang++")
endif()

add_custom_target(fuzz_targets)
# One line a target, for scripts/fuzz: name, most bytes, files.
set(fuzz_list ${CMAKE_CURRENT_BINARY_DIR}/fuzz_targets.txt)
file(WRITE ${fuzz_list} "")

function(penstock_fuzz name)
  cmake_parse_arguments(arg "" "MAX_LEN" "LIBS;COVERS" ${ARGN})
  add_executable(${name}_fuzz ${PROJECT_SOURCE_DIR}/tests/fuzz/${name}_fuzz.cc)
  target_compile_options(${name}_fuzz PRIVATE -O2 -fsanitize=fuzzer)
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  target_link_libraries(${name}_fuzz PRIVATE ${arg_LIBS} penstock_core)
  add_dependencies(fuzz_targets ${name}_fuzz)
  foreach(file IN LISTS arg_COVERS)
    if(NOT EXISTS ${PROJECT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "penstock_fuzz(${name}): there is no ${file}")
    endif()
  endforeach()
  string(JOIN " " line ${name} ${arg_MAX_LEN} ${arg_COVERS})
  file(APPEND ${fuzz_list} "${line}\n")
endfunction()

# libFuzzer follows the branches of what it is to explore: all that a target may call.
foreach(library penstock_core penstock_engine)
  target_compile_options(${library} PRIVATE -fsanitize=fuzzer-no-link)
endforeach()

penstock_fuzz(gguf MAX_LEN 8192
  COVERS core/io/gguf.cc core/io/gguf_config.cc core/io/gguf_cursor.h core/io/gguf_format.cc
         core/io/gguf_parser.cc core/io/gguf_tokenizer.cc core/io/gguf_weights.cc)
penstock_fuzz(hf_config MAX_LEN 2048
  COVERS core/io/hf_config.cc core/io/json.cc core/io/json_value.cc core/model/model_config.cc)
penstock_fuzz(safetensors MAX_LEN 1024 COVERS core/io/safetensors.cc)
penstock_fuzz(safetensors_index MAX_LEN 1024 COVERS core/io/safetensors_weights.cc)
penstock_fuzz(check_file MAX_LEN 1024 COVERS core/io/check_file.cc)
penstock_fuzz(gemm_table MAX_LEN 1024 COVERS core/io/gemm_table.cc)
penstock_fuzz(tokenizer MAX_LEN 512
  COVERS core/base/utf8.cc core/tokenizer/bpe_tokenizer.cc core/tokenizer/byte_alphabet.cc
         core/tokenizer/merge_list.h core/tokenizer/named_tokens.cc core/tokenizer/nfc.cc
         core/tokenizer/pre_tokenizer.cc core/tokenizer/spm_tokenizer.cc
         core/tokenizer/tokenizer.cc)
penstock_fuzz(tokenizer_json MAX_LEN 4096
  COVERS core/io/tokenizer_file.cc core/io/tokenizer_json.cc core/io/tokenizer_json_steps.cc)
penstock_fuzz(tokenizer_folder MAX_LEN 1024 COVERS core/io/tokenizer_folder.cc)
penstock_fuzz(sentencepiece MAX_LEN 5120
  COVERS core/io/protobuf_reader.cc core/io/sentencepiece_model.cc)
penstock_fuzz(chat_template MAX_LEN 4096
  COVERS core/tokenizer/chat_template.cc core/tokenizer/chat_text.cc
         core/tokenizer/template_shape.cc)
penstock_fuzz(request MAX_LEN 1024 LIBS penstock_engine
  COVERS frontend/answer_stream.cc frontend/prompt_validator.cc frontend/request_validator.cc
         frontend/sampling_validator.cc frontend/stop_matcher.cc)
penstock_fuzz(trace_file MAX_LEN 512 LIBS penstock_engine COVERS frontend/trace_file.cc)
