// SentencePieceBuilder: sentencepiece models in memory, and protobuf's wire format. For tests only.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace penstock {

// A message in the making: fields in the order of the calls.
class ProtobufBytes {
 public:
  ProtobufBytes& Varint(int field, uint64_t value) {
    PutVarint(static_cast<uint64_t>(field) << 3);
    PutVarint(value);
    return *this;
  }
  ProtobufBytes& Float(int field, float value) {
    PutVarint(static_cast<uint64_t>(field) << 3 | 5);
    char raw[sizeof(value)];
    std::memcpy(raw, &value, sizeof(value));
    bytes.append(raw, sizeof(raw));
    return *this;
  }
  ProtobufBytes& Bytes(int field, std::string_view value) {
    PutVarint(static_cast<uint64_t>(field) << 3 | 2);
    PutVarint(value.size());
    bytes.append(value);
    return *this;
  }

  std::string bytes;

 private:
  void PutVarint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
    bytes.push_back(static_cast<char>(value));
  }
};

struct SentencePieceBuilder {
  // The codes of SentencePiece.Type.
  enum Type : int { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

  SentencePieceBuilder& Piece(std::string_view text, float score, int type = kNormal) {
    ProtobufBytes piece;
    piece.Bytes(1, text).Float(2, score);
    if (type != kNormal)
      piece.Varint(3,
                   static_cast<uint64_t>(type));  // the default is left out, as sentencepiece does
    pieces.Bytes(1, piece.bytes);
    return *this;
  }
  std::string Build() const {
    return ProtobufBytes(pieces).Bytes(2, trainer.bytes).Bytes(3, normalizer.bytes).bytes;
  }

  ProtobufBytes pieces;
  ProtobufBytes trainer;     // TrainerSpec
  ProtobufBytes normalizer;  // NormalizerSpec
};

// BPE of "hello" with the usual three tokens in front: 0 <unk>, 1 <s>, 2 </s>.
inline SentencePieceBuilder TinySentencePiece() {
  SentencePieceBuilder model;
  model.Piece("<unk>", 0, SentencePieceBuilder::kUnknown);
  model.Piece("<s>", 0, SentencePieceBuilder::kControl);
  model.Piece("</s>", 0, SentencePieceBuilder::kControl);
  float score = 0;
  for (const char* piece : {"ll", "he", "\xE2\x96\x81he", "llo", "\xE2\x96\x81hello",
                            "\xE2\x96\x81", "h", "e", "l", "o"}) {
    model.Piece(piece, score--);
  }
  model.trainer.Varint(3, 2);     // BPE
  model.normalizer.Varint(4, 0);  // remove_extra_whitespaces
  return model;
}

}  // namespace penstock
