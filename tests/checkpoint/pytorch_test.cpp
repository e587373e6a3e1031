#include "mamba2/checkpoint/pytorch.h"

#include "mamba2/base/random.h"
#include "test_files.h"

namespace mamba2 {
namespace {

using test::bytes_of;
using test::torch_file;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace op = test::op;

/// Six floats, 0 to 5.
const std::string six_floats = test::raw({0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.0F});

std::string six(std::int64_t elements = 6) {
  return op::storage("FloatStorage", "0", elements);
}

std::string error_of(const std::string& value, const std::string& data = six_floats) {
  const std::string file = torch_file(value, {{"0", data}});
  return test::error_of([&] { parse_pytorch(bytes_of(file), "x.bin"); });
}

std::string tensor_error(const std::string& tensor, const std::string& data = six_floats) {
  return error_of(op::dict({{"w", tensor}}), data);
}

/// A file that parses must describe itself truly: every element inside the file.
void expect_sane(std::string_view file) {
  std::vector<TorchTensor> tensors;
  try {
    tensors = parse_pytorch(bytes_of(file), "x.bin");
  } catch (const Error& e) {
    EXPECT_TRUE(std::string_view(e.what()).starts_with("x.bin: ")) << e.what();
    return;
  }
  for (const TorchTensor& tensor : tensors) {
    if (tensor.shape.elements() == 0) continue;
    std::size_t last = 0;
    for (int i = 0; i < tensor.shape.rank(); ++i)
      last += static_cast<std::size_t>((tensor.shape[i] - 1) * tensor.strides[static_cast<std::size_t>(i)]);
    EXPECT_LE(tensor.begin + (last + 1) * element_size(tensor.dtype), file.size());
  }
}

class PyTorchFileTest : public test::FolderTest {
 protected:
  PyTorchFile open(const std::string& value, const std::vector<std::pair<std::string, std::string>>& storages) {
    return PyTorchFile(write("x.bin", torch_file(value, storages)));
  }
  static std::vector<float> floats(const Tensor& tensor) {
    EXPECT_TRUE(tensor.contiguous());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data) % sizeof(float), 0U);
    return {tensor.as<float>(), tensor.as<float>() + tensor.elements()};
  }
};

TEST_F(PyTorchFileTest, ReadsViewsOfSharedStoragesWithTheirStrides) {
  const PyTorchFile file = open(op::dict({{"whole", op::tensor(six(), 0, {2, 3}, {3, 1})},
                                          {"transposed", op::tensor(six(), 0, {3, 2}, {1, 3})},
                                          {"column", op::tensor(six(), 1, {2}, {3})},
                                          {"row", op::tensor(six(), 3, {3}, {1})},
                                          {"scalar", op::tensor(six(), 5, {}, {})},
                                          {"nothing", op::tensor(six(), 0, {0, 4}, {4, 1})},
                                          {"one", op::tensor(six(), 2, {1, 1}, {99, 77})}}),
                                {{"0", six_floats}});
  EXPECT_EQ(file.tensors().size(), 7U);
  EXPECT_THAT(floats(file.read("whole")), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(floats(file.read("transposed")), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_THAT(floats(file.read("column")), ElementsAre(1, 4));
  EXPECT_THAT(floats(file.read("row")), ElementsAre(3, 4, 5));
  EXPECT_THAT(floats(file.read("scalar")), ElementsAre(5));
  EXPECT_THAT(floats(file.read("one")), ElementsAre(2));
  EXPECT_EQ(file.read("nothing").elements(), 0);
  EXPECT_EQ(file.read("column").data, file.read("column").data);
}

TEST_F(PyTorchFileTest, ReadsEveryStorageType) {
  const std::string eight(8, '\0');
  for (const auto& [type, dtype] : {std::pair{"DoubleStorage", DType::f64},
                                    {"FloatStorage", DType::f32},
                                    {"HalfStorage", DType::f16},
                                    {"BFloat16Storage", DType::bf16},
                                    {"LongStorage", DType::i64},
                                    {"IntStorage", DType::i32},
                                    {"ShortStorage", DType::i16},
                                    {"CharStorage", DType::i8},
                                    {"ByteStorage", DType::u8},
                                    {"BoolStorage", DType::boolean}}) {
    const PyTorchFile file =
        open(op::dict({{"w", op::tensor(op::storage(type, "0", 1), 0, {1}, {1})}}), {{"0", eight}});
    EXPECT_EQ(file.find("w")->dtype, dtype) << type;
  }
}

TEST_F(PyTorchFileTest, ReadsParametersOrderedDictsAndTheirAttributes) {
  const std::string parameter = op::global("torch._utils", "_rebuild_parameter") + op::mark +
                                op::tensor(six(), 0, {6}, {1}) + "\x88" + op::ordered_dict() + op::tuple + op::reduce;
  const std::string state = op::ordered_dict() + op::text("w") + parameter + op::setitem + op::text("epoch") +
                            op::number(3) + op::setitem + op::dict({{"_metadata", op::ordered_dict()}}) + op::build;
  const PyTorchFile file = open(state, {{"0", six_floats}});
  EXPECT_EQ(file.tensors().size(), 1U);
  EXPECT_EQ(floats(file.read("w")).back(), 5);
}

TEST_F(PyTorchFileTest, ReadsUntypedStoragesByTheTensorsOwnDtype) {
  const std::string untyped = op::mark + op::text("storage") + op::global("torch.storage", "UntypedStorage") +
                              op::text("0") + op::text("cpu") + op::number(24) + op::tuple + op::persid;
  const std::string tensor = op::global("torch._utils", "_rebuild_tensor_v3") + op::mark + untyped + op::number(2) +
                             op::numbers({2}) + op::numbers({1}) + op::false_ + op::ordered_dict() +
                             op::global("torch", "float32") + op::empty_dict + op::tuple + op::reduce;
  EXPECT_THAT(floats(open(op::dict({{"w", tensor}}), {{"0", six_floats}}).read("w")), ElementsAre(2, 3));
}

TEST_F(PyTorchFileTest, FindsTheStateDictInsideATrainingCheckpoint) {
  const std::string state = op::dict({{"w", op::tensor(six(), 0, {6}, {1})}});
  for (const char* member : {"state_dict", "model_state_dict", "model", "module"}) {
    const PyTorchFile file = open(op::dict({{"step", op::number(7)}, {member, state}}), {{"0", six_floats}});
    EXPECT_NE(file.find("w"), nullptr) << member;
  }
  EXPECT_THAT(error_of(op::dict({{"weights", state}})), HasSubstr("holds no tensors, neither at the top nor under"));
  EXPECT_THAT(error_of(op::number(3)), HasSubstr("holds the number 3, expected a dict of tensors"));
}

TEST_F(PyTorchFileTest, CopiesMisalignedStorages) {
  for (const char* padding : {"", "1", "12", "123"}) {
    test::ZipBuilder zip;
    zip.add("a/pad", padding).add("a/data/0", six_floats);
    zip.add("a/data.pkl", op::proto + op::dict({{"w", op::tensor(six(), 0, {6}, {1})}}) + op::stop);
    EXPECT_THAT(floats(PyTorchFile(write("x.bin", zip.build())).read("w")), ElementsAre(0, 1, 2, 3, 4, 5));
  }
}

TEST_F(PyTorchFileTest, RefusesATensorNameThatAppearsTwice) {
  const std::string tensor = op::tensor(six(), 0, {6}, {1});
  EXPECT_THAT(test::error_of([&] {
                open(op::dict({{"w", tensor}, {"w", tensor}}), {{"0", six_floats}});
              }),
              HasSubstr("tensor 'w' appears twice"));
}

TEST(PyTorch, RefusesPicklesThatCallAnything) {
  EXPECT_THAT(error_of(op::global("os", "system") + op::text("true") + "\x85R"),
              HasSubstr("refers to os.system, which is not allowed"));
  EXPECT_THAT(error_of(op::global("builtins", "eval") + op::text("1") + "\x85R"), HasSubstr("builtins.eval"));
  EXPECT_THAT(error_of(op::global("torch", "FloatStorage") + op::numbers({1}) + "R"),
              HasSubstr("torch.FloatStorage is called"));
  EXPECT_THAT(error_of(op::global("torch", "FloatTensor")), HasSubstr("refers to torch.FloatTensor"));
  EXPECT_THAT(error_of(op::global("collections", "OrderedDict") + op::numbers({1}) + "R"),
              HasSubstr("OrderedDict is called with 1"));
  EXPECT_THAT(error_of(op::global("torch._utils", "_rebuild_tensor_v2") + op::numbers({1}) + "R"),
              HasSubstr("has 1 arguments"));
  EXPECT_THAT(error_of(op::global("torch._utils", "_rebuild_parameter") + op::numbers({1, 2, 3}) + "R"),
              HasSubstr("_rebuild_parameter"));
}

TEST(PyTorch, RefusesViewsThatLeaveTheirStorage) {
  EXPECT_THAT(tensor_error(op::tensor(six(), 0, {7}, {1})), HasSubstr("needs 7 elements, its storage holds 6"));
  EXPECT_THAT(tensor_error(op::tensor(six(), 5, {2}, {1})), HasSubstr("needs 7 elements"));
  EXPECT_THAT(tensor_error(op::tensor(six(), 0, {2, 3}, {4, 1})), HasSubstr("needs 7 elements"));
  EXPECT_THAT(tensor_error(op::tensor(six(), 6, {}, {})), HasSubstr("needs 7 elements"));
  EXPECT_THAT(tensor_error(op::tensor(six(5), 0, {6}, {1})), HasSubstr("its storage holds 5"));
  EXPECT_THAT(tensor_error(op::tensor(six(7), 0, {6}, {1})), HasSubstr("storage '0' is 24 bytes, too short for its 7"));
}

TEST(PyTorch, RefusesNumbersThatOverflow) {
  const std::int64_t huge = std::int64_t{1} << 62, most = std::numeric_limits<std::int64_t>::max();
  for (const std::string& tensor :
       {op::tensor(six(), most, {2}, {1}), op::tensor(six(), huge, {2}, {huge}), op::tensor(six(), 0, {3}, {most}),
        op::tensor(six(), 0, {2, 2}, {most, most}), op::tensor(six(), 0, {huge, huge}, {0, 0}),
        op::tensor(six(), 0, {most}, {0}), op::tensor(six(), -1, {1}, {1}), op::tensor(six(), 0, {-1}, {1}),
        op::tensor(six(), 0, {1}, {-1}), op::tensor(six(), 0, {1, 1}, {1}), op::tensor(six(-1), 0, {0}, {1}),
        op::tensor(six(most), 0, {1}, {1}), op::tensor(six(), 0, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1})})
    EXPECT_THAT(tensor_error(tensor), HasSubstr("x.bin: "));
}

TEST(PyTorch, RefusesViewsWhoseCopiesWouldOutgrowTheFile) {
  EXPECT_THAT(tensor_error(op::tensor(six(), 0, {1LL << 40, 6}, {0, 1})),
              HasSubstr("'w' of shape (1099511627776, 6) repeats"));
  std::vector<std::pair<std::string, std::string>> columns;
  for (int i = 0; i < 1000; ++i)
    columns.emplace_back("w" + std::to_string(i), op::tensor("h\x01", 0, {100, 2}, {1, 100}));
  const std::string file = torch_file(op::storage("FloatStorage", "0", 200) +
                                          "q\x01"
                                          "0" +
                                          op::dict(columns),
                                      {{"0", std::string(800, '\0')}});
  EXPECT_THAT(test::error_of([&] { parse_pytorch(bytes_of(file), "x"); }), HasSubstr("no more copies than the file's"));
}

TEST(PyTorch, RefusesStoragesThatAreMissingOrMalformed) {
  EXPECT_THAT(tensor_error(op::tensor(op::storage("FloatStorage", "1", 6), 0, {6}, {1})),
              HasSubstr("there is no storage '1'"));
  EXPECT_THAT(tensor_error(op::tensor(op::storage("FloatStorage", "../0", 6), 0, {6}, {1})),
              HasSubstr("no storage '../0'"));
  EXPECT_THAT(tensor_error(op::tensor(op::storage("FloatStorage", std::string(65, '0'), 6), 0, {6}, {1})),
              HasSubstr("longer than 64"));
  EXPECT_THAT(tensor_error(op::tensor(op::number(1), 0, {6}, {1})), HasSubstr("a tensor's storage is the number 1"));
  EXPECT_THAT(tensor_error(op::numbers({1, 2, 3, 4, 5}) + op::persid), HasSubstr("a persistent id is not"));
  EXPECT_THAT(tensor_error("NQ"), HasSubstr("a persistent id is None"));
  EXPECT_THAT(tensor_error(op::tensor(op::storage("UntypedStorage", "0", 24), 0, {6}, {1})),
              HasSubstr("dtype is missing"));
}

TEST(PyTorch, RefusesArchivesThatTorchDidNotWrite) {
  const auto error = [](const test::ZipBuilder& zip) {
    const std::string file = zip.build();
    return test::error_of([&] { parse_pytorch(bytes_of(file), "x.bin"); });
  };
  EXPECT_THAT(error(test::ZipBuilder().add("data.pkl", "")), HasSubstr("holds no 'NAME/data.pkl'"));
  EXPECT_THAT(error(test::ZipBuilder().add("a/data.pkl", "").add("b/data.pkl", "")),
              HasSubstr("more than one 'data.pkl'"));
  EXPECT_THAT(error(test::ZipBuilder().add("a/data.pkl", "").add("a/byteorder", "big")),
              HasSubstr("byte order is 'big'"));
}

TEST(PyTorch, EveryTruncationIsRefused) {
  const std::string file(read_file(test::golden("state-spaces/pytorch_model.bin")));
  Random random(1);
  for (int i = 0; i < 1000; ++i)
    EXPECT_THROW(parse_pytorch(bytes_of(file).first(random.next_u64() % file.size()), "x"), Error);
  for (std::size_t length = file.size() - 3000; length < file.size(); ++length)
    EXPECT_THROW(parse_pytorch(bytes_of(file).first(length), "x"), Error) << length;
}

TEST(PyTorch, EverySingleBitFlipOfDirectoryAndPickleGivesSaneTensorsOrAnError) {
  std::string file(read_file(test::golden("state-spaces-no-rmsnorm/pytorch_model.bin")));
  const std::size_t pickle_end = 2500, directory_begin = file.rfind("PK\x06\x06") - 2500;
  for (std::size_t bit = 0; bit < 8 * file.size(); ++bit) {
    if (bit == 8 * pickle_end) bit = 8 * directory_begin;
    const auto mask = static_cast<char>(1 << bit % 8);
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ mask);
    expect_sane(file);
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ mask);
  }
}

}  // namespace
}  // namespace mamba2
