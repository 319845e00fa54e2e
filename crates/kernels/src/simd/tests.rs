use super::*;
use crate::Isa;
use crate::isa::Vectorized;

/// Every operation of `Simd` on some input, as bits.
struct Everything<'a>(&'a [f32; 48], &'a [u8; 32]);

impl Vectorized for Everything<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u32> {
        let (x, _) = self.0.as_chunks::<LANES>();
        let (a, b, c) = (s.load(&x[0]), s.load(&x[1]), s.load(&x[2]));
        let bytes16: &[u8; 16] = self.1[..16].try_into().expect("sixteen of thirty-two");
        let bytes8: &[u8; 8] = self.1[..8].try_into().expect("eight of thirty-two");
        let small = s.min(s.splat(80.0), s.max(s.splat(-80.0), a));
        let vectors = [
            s.splat(self.0[0]),
            s.add(a, b),
            s.sub(a, b),
            s.mul(a, b),
            s.div(a, b),
            s.fma(a, b, c),
            s.max(a, b),
            s.min(a, b),
            s.sqrt(s.mul(a, a)),
            s.round(a),
            s.exp2_integral(s.round(small)),
            s.exp(a),
            s.load_bf16(self.1),
            s.load_e4m3(bytes16),
            s.load_e4m3_over_256(bytes16),
            s.load_e2m1(bytes8, s.e2m1_table(0.25)),
            s.load_e2m1_pair(bytes16, s.e2m1_table(0.25))[0],
            s.load_e2m1_pair(bytes16, s.e2m1_table(0.25))[1],
            s.load_partial(&self.0[..7], 3.0),
        ];
        let mut out = Vec::new();
        for v in vectors {
            let mut lanes = [0.0; LANES];
            s.store(v, &mut lanes);
            out.extend(lanes.map(f32::to_bits));
        }
        let mut bytes = [0; LANES];
        s.store_i8(s.round(s.min(s.splat(127.0), s.max(s.splat(-128.0), b))), &mut bytes);
        out.extend(bytes.map(|byte| byte as u32));
        out.push(s.sum(a).to_bits());
        out.extend(s.sum_four([a, b, c, s.add(a, b)]).map(f32::to_bits));
        let (mut copied, mut lanes) = (x[2], x[2]);
        for part in 0..S::PARTS {
            let own = s.load_part(&x[0], part);
            s.store_part(own, &mut copied, part);
            let sum = s.fma_part(own, s.splat_part(self.0[1]), s.load_part(&x[1], part));
            s.store_part(sum, &mut lanes, part);
        }
        out.extend(lanes.map(f32::to_bits));
        out.extend(copied.map(f32::to_bits));
        out.push(s.max_lane(a).to_bits());
        out.push(s.dot(&self.0[..23], &self.0[25..]).to_bits());
        out
    }
}

/// A stream of awkward numbers.
fn numbers(seed: u64) -> ([f32; 48], [u8; 32]) {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let floats = std::array::from_fn(|_| match next() % 6 {
        0 => 0.0,
        1 => -0.0,
        2 => (next() as f32 / 2f32.powi(31) - 1.0) * 100.0,
        3 => f32::from_bits(next() % 0x0080_0000),
        _ => next() as f32 / 2f32.powi(31) - 1.0,
    });
    // No BF16 NaN or infinity: their payloads may differ.
    (floats, std::array::from_fn(|_| (next() % 0x7F) as u8))
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_scalar_lanes() {
    for seed in 0..2_000 {
        let (floats, bytes) = numbers(seed);
        let want = Isa::Scalar.dispatch(Everything(&floats, &bytes));
        for isa in Isa::available() {
            assert_eq!(isa.dispatch(Everything(&floats, &bytes)), want, "{isa:?}, seed {seed}");
        }
    }
}

struct Exp(f32);

impl Vectorized for Exp {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut lanes = [0.0; LANES];
        s.store(s.exp(s.splat(self.0)), &mut lanes);
        lanes[3]
    }
}

#[test]
fn exp_stays_within_two_units_in_the_last_place() {
    for step in -8_700..=8_800 {
        let x = step as f32 * 0.01 + 0.001;
        if x > 88.0 {
            break;
        }
        let got = Isa::best().dispatch(Exp(x));
        let exact = f64::from(x).exp();
        let ulp = f64::from(f32::EPSILON) * exact;
        assert!((f64::from(got) - exact).abs() <= 2.0 * ulp, "exp({x}) = {got:e}, not {exact:e}");
    }
    assert!(Isa::best().dispatch(Exp(f32::NAN)).is_nan());
    assert_eq!(Isa::best().dispatch(Exp(0.0)), 1.0);
}
