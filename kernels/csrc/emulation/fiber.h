// Fibers: one stack a CUDA thread, switched by hand. A switch saves the registers a call must keep and nothing else.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define FOLDASE_ADDRESS_SANITIZER 1
#else
#define FOLDASE_ADDRESS_SANITIZER 0
#endif

#if defined(__x86_64__) && !defined(FOLDASE_UCONTEXT)
#define FOLDASE_HAND_SWITCH 1
// Local to the translation unit, so that several of them can be linked into one library.
extern "C" void foldase_switch_fiber(void** save, void* resume);
__asm__(
    ".text\n"
    ".p2align 4\n"
    ".type foldase_switch_fiber, @function\n"
    "foldase_switch_fiber:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size foldase_switch_fiber, .-foldase_switch_fiber\n");
#else
#define FOLDASE_HAND_SWITCH 0
#include <ucontext.h>
#endif

namespace foldase::emulation {

// Memory for one stack, with a page below it that faults when the stack overruns.
class Stack {
 public:
  static constexpr std::size_t kBytes = FOLDASE_ADDRESS_SANITIZER ? 512 * 1024 : 128 * 1024;
  static constexpr std::size_t kGuard = 4096 * 4;

  Stack() {
    memory_ = mmap(nullptr, kBytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory_, kGuard, PROT_NONE);
  }
  ~Stack() { munmap(memory_, kBytes + kGuard); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  char* bottom() const { return static_cast<char*>(memory_) + kGuard; }
  char* top() const { return bottom() + kBytes; }

 private:
  void* memory_;
};

// A point of execution that can be left and resumed. The scheduler's own has no stack of ours.
class Context {
 public:
  using Entry = void (*)();

  void prepare(Stack& stack, Entry entry) {
    stack_ = &stack;
#if FOLDASE_HAND_SWITCH
    // As if the entry had been called: the return address is a null one, and rsp + 8 is a multiple of 16.
    auto* words = reinterpret_cast<std::uintptr_t*>(stack.top()) - 3;
    words[0] = 0;
    *--words = reinterpret_cast<std::uintptr_t>(entry);
    for (int saved = 0; saved < 6; ++saved) *--words = 0;
    pointer_ = words;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.bottom();
    context_.uc_stack.ss_size = Stack::kBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  // Leaves this context for another; returns when something switches back.
  void switch_to(Context& other) {
#if FOLDASE_ADDRESS_SANITIZER
    void* fake = nullptr;
    const bool fiber = other.stack_ != nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber ? other.stack_->bottom() : other.home_bottom_,
                                   fiber ? Stack::kBytes : other.home_bytes_);
#endif
#if FOLDASE_HAND_SWITCH
    foldase_switch_fiber(&pointer_, other.pointer_);
#else
    swapcontext(&context_, &other.context_);
#endif
#if FOLDASE_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  // The first thing a fiber does: tells the sanitizer where it came from.
  static void arrived(Context& home) {
#if FOLDASE_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(nullptr, &home.home_bottom_, &home.home_bytes_);
#else
    static_cast<void>(home);
#endif
  }

 private:
  Stack* stack_ = nullptr;
#if FOLDASE_HAND_SWITCH
  void* pointer_ = nullptr;
#else
  ucontext_t context_{};
#endif
#if FOLDASE_ADDRESS_SANITIZER
  const void* home_bottom_ = nullptr;
  std::size_t home_bytes_ = 0;
#endif
};

}  // namespace foldase::emulation
