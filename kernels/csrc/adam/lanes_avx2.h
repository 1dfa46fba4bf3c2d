// Eight elements at a time.

struct Lanes {
  using Floats = __m256;
  static constexpr int kWidth = 8;

  static Floats all(float value) { return _mm256_set1_ps(value); }
  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static Floats load(const uint16_t* from) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
  static void store(uint16_t* to, Floats value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
  }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  static Floats root(Floats a) { return _mm256_sqrt_ps(a); }
};

struct Squares {
  __m256d lanes[4];

  // Written out: a constructor that the compiler makes would not be of this level.
  Squares() {
    for (__m256d& lane : lanes) lane = _mm256_setzero_pd();
  }
  template <typename T>
  void add(const T* from) {
    for (int half = 0; half < 2; ++half) {
      const __m256 values = Lanes::load(from + 8 * half);
      add_squares(2 * half, _mm256_castps256_ps128(values));
      add_squares(2 * half + 1, _mm256_extractf128_ps(values, 1));
    }
  }
  void add_squares(int at, __m128 values) {
    const __m256d wide = _mm256_cvtps_pd(values);
    lanes[at] = _mm256_add_pd(lanes[at], _mm256_mul_pd(wide, wide));
  }
  void read(double* to) const {
    for (int at = 0; at < 4; ++at) _mm256_storeu_pd(to + 4 * at, lanes[at]);
  }
};
