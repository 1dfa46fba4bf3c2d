// Sixteen elements at a time. The instruction that rounds to bfloat16 is not used: it flushes denormals.

struct Lanes {
  using Floats = __m512;
  static constexpr int kWidth = 16;

  static Floats all(float value) { return _mm512_set1_ps(value); }
  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static Floats load(const uint16_t* from) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
  static void store(uint16_t* to, Floats value) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    const __m256i upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), upper);
  }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static Floats root(Floats a) { return _mm512_sqrt_ps(a); }
};

struct Squares {
  __m512d low, high;

  // Written out: a constructor that the compiler makes would not be of this level.
  Squares() : low(_mm512_setzero_pd()), high(_mm512_setzero_pd()) {}
  template <typename T>
  void add(const T* from) {
    const __m512 values = Lanes::load(from);
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(values), 1));
    const __m512d first = _mm512_cvtps_pd(_mm512_castps512_ps256(values)), second = _mm512_cvtps_pd(upper);
    low = _mm512_add_pd(low, _mm512_mul_pd(first, first));
    high = _mm512_add_pd(high, _mm512_mul_pd(second, second));
  }
  void read(double* to) const {
    _mm512_storeu_pd(to, low);
    _mm512_storeu_pd(to + 8, high);
  }
};
