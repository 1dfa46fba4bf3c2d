// One element at a time, on any processor. The arithmetic of every other level is this one, lane by lane.

struct Lanes {
  using Floats = float;
  static constexpr int kWidth = 1;

  static Floats all(float value) { return value; }
  static Floats load(const float* from) { return *from; }
  static Floats load(const uint16_t* from) {
    const uint32_t bits = static_cast<uint32_t>(*from) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  static void store(float* to, Floats value) { *to = value; }
  // To the nearest bfloat16, ties to even; a quiet NaN keeps its sign and the upper bits of its payload.
  static void store(uint16_t* to, Floats value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
    *to = static_cast<uint16_t>((value != value ? bits | 0x400000u : rounded) >> 16);
  }
  static Floats add(Floats a, Floats b) { return a + b; }
  static Floats subtract(Floats a, Floats b) { return a - b; }
  static Floats multiply(Floats a, Floats b) { return a * b; }
  static Floats divide(Floats a, Floats b) { return a / b; }
  static Floats root(Floats a) { return std::sqrt(a); }
};

struct Squares {
  double lanes[kSumLanes] = {};

  template <typename T>
  void add(const T* from) {
    for (int lane = 0; lane < kSumLanes; ++lane) {
      const double value = Lanes::load(from + lane);
      lanes[lane] += value * value;
    }
  }
  void read(double* to) const { std::memcpy(to, lanes, sizeof lanes); }
};
