// replay.cpp: a main() for a fuzzer without libFuzzer. Runs the files it is given, one by one.

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        if (!file) {
            std::perror(argv[i]);
            return 1;
        }
        std::string bytes(std::istreambuf_iterator<char>(file), {});
        std::printf("%s\n", argv[i]);  // the last one, if this is the end of the program
        std::fflush(stdout);
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    }
    std::printf("%d passed, 0 failed\n", argc - 1);
}
