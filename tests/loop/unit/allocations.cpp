#include "allocations.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <new>

constinit thread_local Allocations allocations;

namespace {

std::atomic<std::size_t> bytes = 0;

void* allocate(std::size_t size) {
    ++allocations.made;
    if (allocations.until_failure >= 0 && allocations.until_failure-- == 0) return nullptr;
    void* memory = std::malloc(size == 0 ? 1 : size);
    if (memory == nullptr) return nullptr;
    bytes += malloc_usable_size(memory);
    std::memset(memory, 0xbe, std::min<std::size_t>(size, 4096));  // it is not zero by luck
    return memory;
}

void deallocate(void* memory) {
    if (memory != nullptr) bytes -= malloc_usable_size(memory);
    std::free(memory);
}

}  // namespace

std::size_t bytes_allocated() { return bytes; }

void* operator new(std::size_t size) {
    if (void* memory = allocate(size)) return memory;
    throw std::bad_alloc();
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }

void operator delete(void* memory) noexcept { deallocate(memory); }
void operator delete[](void* memory) noexcept { deallocate(memory); }
void operator delete(void* memory, std::size_t) noexcept { deallocate(memory); }
void operator delete[](void* memory, std::size_t) noexcept { deallocate(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { deallocate(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { deallocate(memory); }
