use super::*;
use crate::Isa;
use crate::gemm::tests::Stored;
use crate::testing::{assert_within, everywhere, scalar, uniform};

const LIMIT: f32 = 10.0;

struct Case {
    x: Matrix,
    ids: Matrix<u16>,
    weights: Matrix<f32>,
    experts: Vec<ExpertWeights>,
}

/// `k` of `n` experts for each token; gates and ups large enough to be clamped now and then.
fn case(stored: Stored, tokens: usize, k: usize, n: usize, (dim, inter): (usize, usize)) -> Case {
    let expert = |e| ExpertWeights {
        w1: stored.draw(inter, dim, 10 + e),
        w3: stored.draw(inter, dim, 20 + e),
        w2: stored.draw(dim, inter, 30 + e),
    };
    let first = uniform(tokens, 2).into_iter().map(|x| (x.abs() * n as f32) as usize % n);
    let ids = first.flat_map(|first| (0..k).map(move |j| ((first + n - j) % n) as u16));
    let x = uniform(tokens * dim, 1).into_iter().map(|x| x * 3.0).collect();
    Case {
        x: Matrix::from_vec(x, dim),
        ids: Matrix::from_vec(ids.collect(), k),
        weights: Matrix::from_vec(uniform(tokens * k, 3).iter().map(|w| w.abs() + 0.1).collect(), k),
        experts: (0..n as u64).map(expert).collect(),
    }
}

fn run(c: &Compute, case: &Case) -> Vec<f32> {
    let Case { x, ids, weights, experts: all } = case;
    let mut out = Matrix::from_vec(vec![f32::NAN; x.data().len()], x.cols());
    experts(c, &Activations::new(x.view()), ids, weights, all, LIMIT, out.view_mut());
    out.into_vec()
}

#[test]
fn experts_stay_within_their_bound_in_every_format() {
    for stored in Stored::ALL {
        for tokens in [1, 2, 9, 33] {
            let case = case(stored, tokens, 3, 5, (96, 160));
            let got = everywhere(|c| run(c, &case));
            let exact = reference::experts(case.x.view(), &case.ids, &case.weights, &case.experts, LIMIT);
            assert_within(&got, exact, &format!("{stored:?}, {tokens} tokens"));
        }
    }
}

#[test]
fn the_clamps_are_active_in_these_cases() {
    let case = case(Stored::F32, 9, 3, 5, (96, 160));
    let large = |w: &WeightMatrix| {
        let w = |r| (0..96).map(move |i| crate::gemm::reference::weight(w, r, i));
        (0..160)
            .flat_map(|r| case.x.view().iter().map(move |x| x.iter().zip(w(r)).map(|(x, w)| x * w).sum()))
            .filter(|y: &f32| y.abs() > LIMIT)
            .count()
    };
    assert!(large(&case.experts[0].w1) > 10 && large(&case.experts[0].w3) > 10);
}

#[test]
fn a_token_alone_gets_the_bits_that_it_gets_among_others() {
    for stored in Stored::ALL {
        let all = case(stored, 150, 2, 3, (128, 64));
        let c = Compute::new(Isa::best(), std::num::NonZeroUsize::MIN).expect("one thread");
        let together = run(&c, &all);
        for t in 0..150 {
            let alone = Case {
                x: Matrix::from_vec(all.x.row(t).to_vec(), 128),
                ids: Matrix::from_vec(all.ids.row(t).to_vec(), 2),
                weights: Matrix::from_vec(all.weights.row(t).to_vec(), 2),
                experts: all.experts.clone(),
            };
            assert_eq!(run(&c, &alone), &together[t * 128..][..128], "{stored:?}, token {t}");
        }
    }
}

#[test]
fn the_order_in_which_a_token_lists_its_experts_does_not_matter() {
    let listed = case(Stored::Fp8, 7, 3, 5, (96, 64));
    let reverse = |row: &[f32]| row.iter().rev().copied().collect::<Vec<f32>>();
    let reversed = Case {
        x: listed.x.clone(),
        ids: Matrix::from_vec((0..7).flat_map(|t| listed.ids.row(t).iter().rev().copied()).collect(), 3),
        weights: Matrix::from_vec((0..7).flat_map(|t| reverse(listed.weights.row(t))).collect(), 3),
        experts: listed.experts.clone(),
    };
    assert_eq!(run(&scalar(), &listed), run(&scalar(), &reversed));
}

#[test]
fn no_tokens_give_no_outputs_and_borrowed_experts_do_as_well() {
    let one = case(Stored::Bf16, 1, 2, 3, (32, 16));
    let borrowed: Vec<&ExpertWeights> = one.experts.iter().collect();
    let mut out = Matrix::zeros(1, 32);
    let x = Activations::new(one.x.view());
    experts(&scalar(), &x, &one.ids, &one.weights, &borrowed, LIMIT, out.view_mut());
    assert_eq!(out.into_vec(), run(&scalar(), &one));
    let none = Case {
        x: Matrix::zeros(0, 32),
        ids: Matrix::zeros(0, 2),
        weights: Matrix::zeros(0, 2),
        experts: one.experts,
    };
    assert!(run(&scalar(), &none).is_empty());
}

#[test]
fn parts_one_after_the_other_give_the_bits_of_all_at_once() {
    let case = case(Stored::Fp4, 40, 3, 9, (96, 64));
    let c = scalar();
    let dispatch = Dispatch::new(&c, &case.ids, &case.weights);
    let chosen: Vec<&ExpertWeights> = dispatch.ids().map(|id| &case.experts[usize::from(id)]).collect();
    assert!(dispatch.ids().is_sorted() && chosen.len() > 5);
    let x = Activations::new(case.x.view());
    for len in [1, 2, chosen.len()] {
        let mut out = Matrix::from_vec(vec![f32::NAN; 40 * 96], 96);
        for start in (0..chosen.len()).step_by(len) {
            let part = start..chosen.len().min(start + len);
            let store = if start == 0 { Store::Set } else { Store::Add };
            experts_part(&c, &x, &dispatch, part.clone(), &chosen[part], LIMIT, store, out.view_mut());
        }
        assert_eq!(out.into_vec(), run(&c, &case), "{len} at a time");
    }
}

#[test]
#[should_panic(expected = "w3")]
fn an_expert_of_another_shape_is_refused() {
    let mut case = case(Stored::F32, 1, 1, 1, (32, 16));
    case.experts[0].w3 = Stored::F32.draw(17, 32, 1);
    run(&scalar(), &case);
}
