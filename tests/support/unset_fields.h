// What an example that claims to hold everything has forgotten, or an encoder.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <vector>

namespace penstock {

// Each field of a message and of the messages in it that is nowhere set, by its name.
inline std::vector<std::string> UnsetFields(const google::protobuf::Message& message) {
  std::vector<std::string> unset;
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = message.GetDescriptor()->field(i);
    const bool set = field->is_repeated() ? reflection.FieldSize(message, field) > 0
                                          : reflection.HasField(message, field);
    if (!set) {
      unset.push_back(field->full_name());
    } else if (field->message_type() != nullptr) {
      const std::vector<std::string> inner =
          UnsetFields(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, 0)
                                           : reflection.GetMessage(message, field));
      unset.insert(unset.end(), inner.begin(), inner.end());
    }
  }
  return unset;
}

}  // namespace penstock
