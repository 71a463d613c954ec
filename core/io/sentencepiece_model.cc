#include "core/io/sentencepiece_model.h"

#include <array>
#include <bit>
#include <memory>
#include <utility>

#include "core/base/quoted.h"
#include "core/io/mmap_file.h"
#include "core/io/protobuf_reader.h"
#include "core/io/tokenizer_file.h"
#include "core/model/model_config.h"

namespace penstock {
namespace {

using TokenType = TokenizerSpec::TokenType;
using WireType = ProtobufReader::WireType;

// The codes of SentencePiece.Type, in order, from 1.
constexpr std::array<TokenType, 6> kTypes = {TokenType::kNormal,  TokenType::kUnknown,
                                             TokenType::kControl, TokenType::kUserDefined,
                                             TokenType::kUnused,  TokenType::kByte};
constexpr std::array<std::string_view, 5> kModelTypes = {"", "unigram", "BPE", "word", "char"};
constexpr uint64_t kBpe = 2;

// The fields of TrainerSpec and NormalizerSpec that change how a text is encoded, with the defaults
// of the .proto. split_digits and its like only matter when a model is trained.
struct Settings {
  uint64_t model_type = 1;
  bool whitespace_as_suffix = false;
  bool byte_fallback = false;
  std::string_view bos = "<s>";
  std::string_view eos = "</s>";
  bool has_charsmap = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

class Parser {
 public:
  Parser(const std::string& name, TokenizerSpec* spec) : name_(name), spec_(*spec) {}

  absl::Status Parse(std::string_view model) {
    return ForEachField("the file", model, [this](const ProtobufReader::Field& field) {
      switch (field.number) {
        case 1:
          return ReadPiece(field);
        case 2:
          return ReadTrainer(field);
        case 3:
        case 5:
          return ReadNormalizer(field);
        default:
          return absl::OkStatus();
      }
    });
  }

  absl::Status Apply();

 private:
  absl::Status Bad(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, " is no sentencepiece model: ", what));
  }
  absl::Status Unsupported(const std::string& what) const {
    return absl::UnimplementedError(absl::StrCat(name_, ": ", what));
  }

  template <typename Visit>
  absl::Status ForEachField(std::string_view what, std::string_view bytes, const Visit& visit) {
    ProtobufReader reader(bytes);
    while (const auto field = reader.Next()) PENSTOCK_RETURN_IF_ERROR(visit(*field));
    if (reader.ok()) return absl::OkStatus();
    return Bad(absl::StrCat("at byte ", reader.offset(), " of ", Abs(what),
                            " there is no whole protobuf field"));
  }

  absl::Status CheckType(const ProtobufReader::Field& field, std::string_view what,
                         WireType type) const {
    if (field.type == type) return absl::OkStatus();
    return Bad(absl::StrCat(Abs(what), " has the wire type ", static_cast<int>(field.type), "; ",
                            static_cast<int>(type), " is expected"));
  }

  absl::Status ReadPiece(const ProtobufReader::Field& message);
  absl::Status ReadTrainer(const ProtobufReader::Field& message);
  absl::Status ReadNormalizer(const ProtobufReader::Field& message);
  int32_t FindControl(std::string_view name) const;

  const std::string& name_;
  TokenizerSpec& spec_;
  Settings settings_;
};

absl::Status Parser::ReadPiece(const ProtobufReader::Field& message) {
  const std::string what = absl::StrCat("piece ", spec_.tokens.size());
  PENSTOCK_RETURN_IF_ERROR(CheckType(message, what, WireType::kBytes));
  if (static_cast<int64_t>(spec_.tokens.size()) == kMaxVocabSize) {
    return Bad(absl::StrCat("it has more than ", kMaxVocabSize, " pieces"));
  }
  std::string_view piece;
  float score = 0;
  uint64_t type = 1;
  PENSTOCK_RETURN_IF_ERROR(
      ForEachField(what, message.bytes, [&, this](const ProtobufReader::Field& field) {
        switch (field.number) {
          case 1:
            piece = field.bytes;
            return CheckType(field, what + "'s text", WireType::kBytes);
          case 2:
            score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
            return CheckType(field, what + "'s score", WireType::kFixed32);
          case 3:
            type = field.value;
            return CheckType(field, what + "'s type", WireType::kVarint);
          default:
            return absl::OkStatus();
        }
      }));
  if (piece.empty()) return Bad(what + " has no text");
  if (type < 1 || type > kTypes.size()) {
    return Bad(
        absl::StrCat(what, " has the type ", type, "; 1 to ", kTypes.size(), " is expected"));
  }
  spec_.tokens.emplace_back(piece);
  spec_.scores.push_back(score);
  spec_.types.push_back(kTypes[static_cast<size_t>(type - 1)]);
  return absl::OkStatus();
}

absl::Status Parser::ReadTrainer(const ProtobufReader::Field& message) {
  PENSTOCK_RETURN_IF_ERROR(CheckType(message, "trainer_spec", WireType::kBytes));
  return ForEachField("trainer_spec", message.bytes, [this](const ProtobufReader::Field& field) {
    switch (field.number) {
      case 3:
        settings_.model_type = field.value;
        return CheckType(field, "trainer_spec.model_type", WireType::kVarint);
      case 24:
        settings_.whitespace_as_suffix = field.value != 0;
        return CheckType(field, "trainer_spec.treat_whitespace_as_suffix", WireType::kVarint);
      case 35:
        settings_.byte_fallback = field.value != 0;
        return CheckType(field, "trainer_spec.byte_fallback", WireType::kVarint);
      case 46:
        settings_.bos = field.bytes;
        return CheckType(field, "trainer_spec.bos_piece", WireType::kBytes);
      case 47:
        settings_.eos = field.bytes;
        return CheckType(field, "trainer_spec.eos_piece", WireType::kBytes);
      default:
        return absl::OkStatus();
    }
  });
}

// Of the denormalizer, which has the same type, only the character map could change a text.
absl::Status Parser::ReadNormalizer(const ProtobufReader::Field& message) {
  const bool decodes = message.number == 5;
  const std::string what = decodes ? "denormalizer_spec" : "normalizer_spec";
  PENSTOCK_RETURN_IF_ERROR(CheckType(message, what, WireType::kBytes));
  return ForEachField(what, message.bytes, [&, this](const ProtobufReader::Field& field) {
    if (field.number == 2) {
      if (!field.bytes.empty()) settings_.has_charsmap = true;
      return CheckType(field, what + ".precompiled_charsmap", WireType::kBytes);
    }
    if (decodes) return absl::OkStatus();
    switch (field.number) {
      case 3:
        settings_.add_dummy_prefix = field.value != 0;
        return CheckType(field, what + ".add_dummy_prefix", WireType::kVarint);
      case 4:
        settings_.remove_extra_whitespaces = field.value != 0;
        return CheckType(field, what + ".remove_extra_whitespaces", WireType::kVarint);
      case 5:
        settings_.escape_whitespaces = field.value != 0;
        return CheckType(field, what + ".escape_whitespaces", WireType::kVarint);
      default:
        return absl::OkStatus();
    }
  });
}

int32_t Parser::FindControl(std::string_view name) const {
  for (size_t i = 0; i < spec_.tokens.size(); ++i) {
    if (spec_.types[i] == TokenType::kControl && spec_.tokens[i] == name) {
      return static_cast<int32_t>(i);
    }
  }
  return -1;
}

absl::Status Parser::Apply() {
  if (settings_.model_type != kBpe) {
    const bool known = settings_.model_type > 0 && settings_.model_type < kModelTypes.size();
    return Unsupported(absl::StrCat(
        "trainer_spec.model_type is ", settings_.model_type,
        known ? absl::StrCat(" (", Abs(kModelTypes[settings_.model_type]), ")") : std::string(),
        "; only 2 (BPE) is supported"));
  }
  if (settings_.has_charsmap) {
    return Unsupported(
        "its precompiled_charsmap changes the characters of a text, which is not supported; only "
        "the normalizer \"identity\" is");
  }
  if (settings_.whitespace_as_suffix) {
    return Unsupported("trainer_spec.treat_whitespace_as_suffix is true, which is not supported");
  }
  if (!settings_.escape_whitespaces) {
    return Unsupported("normalizer_spec.escape_whitespaces is false, which is not supported");
  }
  int64_t num_unknown = 0;
  int64_t num_bytes = 0;
  for (const TokenType type : spec_.types) {
    if (type == TokenType::kUnknown) ++num_unknown;
    if (type == TokenType::kByte) ++num_bytes;
  }
  if (num_unknown != 1) {
    return Bad(absl::StrCat("it has ", num_unknown, " pieces of type unknown; one is expected"));
  }
  if (num_bytes != (settings_.byte_fallback ? 256 : 0)) {
    return Bad(absl::StrCat("it has ", num_bytes, " byte pieces; ",
                            settings_.byte_fallback ? 256 : 0, " are expected where byte_fallback ",
                            settings_.byte_fallback ? "is true" : "is false"));
  }
  spec_.model = "llama";
  spec_.space_prefix = settings_.add_dummy_prefix ? TokenizerSpec::SpacePrefix::kSentencePiece
                                                  : TokenizerSpec::SpacePrefix::kNone;
  spec_.remove_extra_spaces = settings_.remove_extra_whitespaces;
  spec_.bos_id = FindControl(settings_.bos);
  spec_.add_bos = spec_.bos_id >= 0;
  if (const int32_t eos = FindControl(settings_.eos); eos >= 0) spec_.end_ids.push_back(eos);
  AddEndIdsByName(&spec_);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseSentencePieceModel(const std::string& name,
                                                      std::string_view bytes, int64_t vocab_size) {
  TokenizerSpec spec;
  Parser parser(name, &spec);
  PENSTOCK_RETURN_IF_ERROR(parser.Parse(bytes));
  PENSTOCK_RETURN_IF_ERROR(parser.Apply());
  PENSTOCK_RETURN_IF_ERROR(PadTokens(name, vocab_size, &spec));
  return spec;
}

absl::StatusOr<TokenizerSpec> ReadSentencePieceModel(const std::string& path, int64_t vocab_size) {
  PENSTOCK_ASSIGN_OR_RETURN(const std::shared_ptr<MmapFile> file, MmapFile::Open(path));
  const std::string_view bytes(reinterpret_cast<const char*>(file->data()),
                               static_cast<size_t>(file->size()));
  return ParseSentencePieceModel(path, bytes, vocab_size);
}

}  // namespace penstock
