use cuvier_tensor::Matrix;

use super::divergence;
use crate::Compute;
use crate::testing::{assert_gradient, assert_within, differences, everywhere, scalar, uniform, wide};

const WEIGHTS: [f32; 5] = [1.0, 0.0, -0.5, 0.25, 1.0];

fn drawn(vocab: usize, seed: u64) -> Matrix {
    Matrix::from_vec(uniform(5 * vocab, seed).iter().map(|x| 6.0 * x).collect(), vocab)
}

/// The divergences, then the gradient.
fn run(c: &Compute, student: &Matrix, teacher: &Matrix, weights: &[f32]) -> Vec<f32> {
    let mut logits = student.clone();
    let divergences = divergence(c, logits.view_mut(), teacher.view(), weights);
    [divergences, logits.into_vec()].concat()
}

fn log_softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::MIN, f64::max);
    let log_sum = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
    z.iter().map(|z| z - log_sum).collect()
}

fn exact(student: &[f64], teacher: &[f64]) -> f64 {
    let (p, q) = (log_softmax(student), log_softmax(teacher));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[test]
fn divergences_and_gradients_are_those_of_the_formula() {
    for vocab in (1..=33).chain([100, 1280]) {
        let (student, teacher) = (drawn(vocab, 7), drawn(vocab, 8));
        let got = everywhere(|c| run(c, &student, &teacher, &WEIGHTS));
        let (divergences, dlogits) = got.split_at(5);
        let teachers: Vec<Vec<f64>> = (0..5).map(|t| wide(teacher.row(t))).collect();
        let want = (0..5).map(|t| exact(&wide(student.row(t)), &teachers[t]));
        assert_within(divergences, want.map(|kl| (kl, 2e-5 * (1.0 + kl))), "divergences");
        let of_row =
            |t: usize| differences(student.row(t), |z| f64::from(WEIGHTS[t]) * exact(z, &teachers[t]));
        let want: Vec<f64> = (0..5).flat_map(of_row).collect();
        if vocab > 1 {
            assert_gradient(dlogits, &want, &format!("vocabulary of {vocab}"));
        }
    }
}

#[test]
fn a_student_that_says_what_its_teacher_says_is_at_no_distance_and_has_nothing_to_learn() {
    let teacher = drawn(17, 3);
    // The same prediction by other logits.
    let student = Matrix::from_vec(teacher.data().iter().map(|z| z + 2.5).collect(), 17);
    let got = run(&scalar(), &student, &teacher, &WEIGHTS);
    assert!(got.iter().all(|x| x.abs() < 2e-6), "{got:?}");
}

#[test]
fn a_teacher_who_all_but_excludes_a_token_gives_finite_numbers() {
    let student = Matrix::from_vec(vec![0.0, 1.0, 2.0, 3.0], 4);
    let teacher = Matrix::from_vec(vec![0.0, -500.0, 3.0, 300.0], 4);
    let got = everywhere(|c| run(c, &student, &teacher, &[1.0]));
    assert!(got.iter().all(|x| x.is_finite()) && got[0] > 50.0, "{got:?}");
}
