#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mamba2/base/json.h"
#include "tests/app/process.h"
#include "tests/temporary_folder.h"

namespace mamba2 {

/// The model that ships with the program.
std::string classics_5m();
/// tests/data/NAME
std::string test_data(const std::string& name);
std::string golden(const std::string& name);

using test::TemporaryFolder;

std::string read_whole(const std::string& path);

/// Each line of a program's output as strict JSON; the test fails where a line is none.
std::vector<Json> json_lines(const std::string& out);
/// What a command that must succeed prints with --json; its stderr is shown where it doesn't.
std::vector<Json> run_json(std::vector<std::string> arguments, const RunOptions& options = {});

std::vector<std::string> keys(const Json& object);

/// Ends with code and has one line on stderr that starts with "error: " and holds every one of the texts; nothing on
/// stdout.
void expect_error(const ProcessResult& result, int code, const std::vector<std::string>& texts);

}  // namespace mamba2
