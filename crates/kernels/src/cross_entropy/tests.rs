use cuvier_tensor::Matrix;

use super::cross_entropy;
use crate::testing::{everywhere, scalar, uniform};

#[test]
fn losses_and_gradients_are_those_of_the_formula() {
    for vocab in [1, 2, 15, 16, 17, 100, 1280] {
        let rows = 5;
        let logits: Vec<f32> = uniform(rows * vocab, 7).iter().map(|x| 20.0 * x).collect();
        let targets: Vec<u32> = (0..rows).map(|t| ((t * 7) % vocab) as u32).collect();
        let weights = [1.0, 0.0, -0.5, 0.25, 1.0];
        let losses =
            cross_entropy(&scalar(), Matrix::from_vec(logits.clone(), vocab).view_mut(), &targets, &weights);
        let got = everywhere(|c| {
            let mut logits = Matrix::from_vec(logits.clone(), vocab);
            cross_entropy(c, logits.view_mut(), &targets, &weights);
            logits.into_vec()
        });
        for t in 0..rows {
            let z: Vec<f64> = logits[t * vocab..][..vocab].iter().map(|&z| f64::from(z)).collect();
            let max = z.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
            let target = targets[t] as usize;
            let loss = max + sum.ln() - z[target];
            assert!(
                (f64::from(losses[t]) - loss).abs() < 1e-5 * (1.0 + loss),
                "{vocab}: {} {loss}",
                losses[t]
            );
            for v in 0..vocab {
                let one = if v == target { 1.0 } else { 0.0 };
                let want = f64::from(weights[t]) * ((z[v] - max).exp() / sum - one);
                assert!((f64::from(got[t * vocab + v]) - want).abs() < 1e-6, "{vocab}: {want}");
            }
        }
    }
}
