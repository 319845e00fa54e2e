//! Which instruction set the operations use: detected once, at run time.

use crate::simd::{Avx2, Avx512, Scalar, Simd};

/// An instruction set that this CPU has; the proof inside makes its use sound.
#[derive(Clone, Copy, Debug)]
pub enum Isa {
    /// Plain Rust; works everywhere.
    Scalar,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// A computation written once over [`Simd`] and compiled for every instruction set.
pub trait Vectorized {
    /// What it returns.
    type Output;
    /// Runs with the vectors of `simd`. Implementations mark it `#[inline(always)]`, so that it is compiled
    /// inside the function that enables the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Isa {
    /// The best instruction set of this CPU.
    pub fn best() -> Self {
        Self::available().pop().expect("scalar is always available")
    }

    /// All instruction sets of this CPU, slowest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::detect().map(Self::Avx2));
            all.extend(Avx512::detect().map(Self::Avx512));
        }
        all
    }

    /// The name as on the command line: `scalar`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
        }
    }

    /// Runs `work` compiled for this instruction set.
    #[inline]
    pub fn dispatch<W: Vectorized>(self, work: W) -> W::Output {
        match self {
            Self::Scalar => work.run(Scalar),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.enter(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.enter(work),
        }
    }
}
