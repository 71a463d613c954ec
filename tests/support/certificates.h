// Certificates for tests of TLS, made with the openssl program.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "worker/transport/grpc_credentials.h"

namespace penstock {

// An authority of its own in a folder of its own.
class Certificates {
 public:
  Certificates() {
    std::string name = testing::TempDir() + "/certificates-XXXXXX";
    folder_ = mkdtemp(name.data());
    Run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=authority -keyout ca.key -out ca.pem");
  }
  ~Certificates() { std::filesystem::remove_all(folder_); }
  Certificates(const Certificates&) = delete;
  Certificates& operator=(const Certificates&) = delete;

  // A certificate of this authority for localhost, both for servers and for clients.
  TlsFiles Make(const std::string& name) const {
    std::ofstream(folder_ + "/extensions")
        << "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
    Run("openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=" + name +
        " -keyout " + name + ".key -out " + name + ".csr");
    Run("openssl x509 -req -days 2 -in " + name + ".csr -CA ca.pem -CAkey ca.key -CAcreateserial" +
        " -extfile extensions -out " + name + ".pem");
    return {folder_ + "/" + name + ".pem", folder_ + "/" + name + ".key", folder_ + "/ca.pem"};
  }

 private:
  void Run(const std::string& command) const {
    const std::string line = "cd '" + folder_ + "' && " + command + " >>log 2>&1";
    ASSERT_EQ(system(line.c_str()), 0) << command;
  }

  std::string folder_;
};

}  // namespace penstock
