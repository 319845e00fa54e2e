#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn params() -> SamplingParams {
    SamplingParams::default()
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..params() }
}

fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

/// The ids that pass the filters.
fn kept(probabilities: &[f64], top_k: u32, top_p: f32, min_p: f32) -> Vec<u32> {
    keep(probabilities, top_k, top_p, min_p).iter().map(|kept| kept.token.0).collect()
}

fn penalised(params: &SamplingParams, prompt: &[u32], answer: &[u32], scores: &[f64]) -> Vec<f64> {
    let mut penalties = Penalties::new(params, &tokens(prompt));
    tokens(answer).into_iter().for_each(|token| penalties.observe(token));
    let mut scores = scores.to_vec();
    penalties.apply(&mut scores);
    scores
}

#[test]
fn temperature_zero_takes_the_likeliest_and_of_equals_the_lowest_id() {
    let mut sampler = Sampler::new(greedy(), &[]);
    assert_eq!(sampler.draw(&[1.0, 3.0, 3.0, 2.0]).unwrap().token, TokenId(1));
    let mut sampler = Sampler::new(SamplingParams { temperature: 9e-6, ..params() }, &[]);
    assert_eq!(sampler.draw(&[-1.0, -3.0]).unwrap().token, TokenId(0));
}

#[test]
fn repetition_penalty_divides_positive_and_multiplies_negative_scores_of_prompt_and_answer() {
    let params = SamplingParams { repetition_penalty: 2.0, ..params() };
    assert_eq!(penalised(&params, &[0, 1, 1], &[2], &[4.0, -4.0, 1.0, 4.0]), [2.0, -8.0, 0.5, 4.0]);
}

#[test]
fn presence_and_frequency_penalties_look_at_the_answer_only() {
    let presence = SamplingParams { presence_penalty: 0.5, ..params() };
    assert_eq!(penalised(&presence, &[0], &[1, 1, 2], &[1.0; 4]), [1.0, 0.5, 0.5, 1.0]);
    let frequency = SamplingParams { frequency_penalty: 0.5, ..params() };
    assert_eq!(penalised(&frequency, &[0], &[1, 1, 2], &[1.0; 4]), [1.0, 0.0, 0.5, 1.0]);
}

#[test]
fn repetition_penalty_comes_before_presence_penalty() {
    let params = SamplingParams { repetition_penalty: 2.0, presence_penalty: 1.0, ..params() };
    assert_eq!(penalised(&params, &[], &[0], &[4.0, 4.0]), [1.0, 4.0]);
}

#[test]
fn bias_is_added_before_the_temperature_and_minus_hundred_bans() {
    let mut scores = vec![1.0, 2.0, 3.0];
    apply_bias(&mut scores, &[(TokenId(0), 2.5), (TokenId(2), -100.0)]);
    assert_eq!(scores, [3.5, 2.0, f64::NEG_INFINITY]);
    assert_eq!(argmax(&scores), Some(TokenId(0)));
    let banned = SamplingParams { logit_bias: vec![(TokenId(0), -100.0), (TokenId(1), -200.0)], ..params() };
    assert_eq!(Sampler::new(banned, &[]).draw(&[1.0, 2.0]), Err(SampleError::EverythingBanned));
}

#[test]
fn a_banned_token_is_never_drawn_by_chance_either() {
    let params = SamplingParams { logit_bias: vec![(TokenId(1), -100.0)], ..params() };
    let mut sampler = Sampler::new(params, &[]);
    assert!((0..1000).all(|_| sampler.draw(&[0.0, 50.0, 0.0]).unwrap().token != TokenId(1)));
}

#[test]
fn temperature_divides_the_scores_before_softmax() {
    let ln2 = std::f64::consts::LN_2;
    let close = |got: Vec<f64>, want: [f64; 2]| got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-15);
    assert!(close(softmax(vec![0.0, ln2], 1.0), [1.0 / 3.0, 2.0 / 3.0]));
    assert!(close(softmax(vec![0.0, ln2], 0.5), [0.2, 0.8]));
}

#[test]
fn top_k_keeps_the_k_likeliest_and_of_equals_the_lowest_ids() {
    assert_eq!(kept(&[0.1, 0.4, 0.2, 0.3], 2, 1.0, 0.0), [1, 3]);
    assert_eq!(kept(&[0.25; 4], 3, 1.0, 0.0), [0, 1, 2]);
    assert_eq!(kept(&[0.25; 4], 0, 1.0, 0.0), [0, 1, 2, 3]);
    assert_eq!(kept(&[0.25; 4], 9, 1.0, 0.0), [0, 1, 2, 3]);
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_it_the_crossing_token_included() {
    assert_eq!(kept(&[0.125, 0.5, 0.25, 0.125], 0, 0.75, 0.0), [1, 2]);
    assert_eq!(kept(&[0.125, 0.5, 0.25, 0.125], 0, 0.76, 0.0), [0, 1, 2]);
    assert_eq!(kept(&[0.125, 0.5, 0.25, 0.125], 0, 0.01, 0.0), [1]);
    assert_eq!(kept(&[0.25; 4], 0, 0.5, 0.0), [0, 1]);
}

#[test]
fn top_p_counts_probabilities_from_before_top_k() {
    // Of the three likeliest, mass 0.875, all are needed to reach 0.8; renormalised, two would do.
    assert_eq!(kept(&[0.125, 0.5, 0.25, 0.125], 3, 0.8, 0.0), [0, 1, 2]);
    assert_eq!(kept(&[0.125, 0.5, 0.25, 0.125], 3, 0.9, 0.0), [0, 1, 2]);
}

#[test]
fn top_p_is_that_of_a_full_sort_over_a_large_vocabulary() {
    for seed in 0..20 {
        let scores: Vec<f64> = (0..5000).map(|i| 12.0 * uniform(seed, i)).collect();
        let probabilities = softmax(scores, 1.0);
        let mut sorted: Vec<usize> = (0..5000).collect();
        sorted.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b)));
        for top_p in [0.1f32, 0.5, 0.95, 0.999] {
            let mut sum = 0.0;
            let n = 1 + sorted
                .iter()
                .position(|&i| {
                    sum += probabilities[i];
                    sum >= f64::from(top_p)
                })
                .unwrap();
            let mut want: Vec<u32> = sorted[..n].iter().map(|&i| i as u32).collect();
            want.sort_unstable();
            assert_eq!(kept(&probabilities, 0, top_p, 0.0), want, "seed {seed}, top_p {top_p}");
        }
    }
}

#[test]
fn min_p_is_a_fraction_of_the_likeliest() {
    assert_eq!(kept(&[0.125, 0.5, 0.25, 0.125], 0, 1.0, 0.5), [1, 2]);
    assert_eq!(kept(&[0.125, 0.5, 0.25, 0.125], 0, 1.0, 0.25), [0, 1, 2, 3]);
    assert_eq!(kept(&[0.125, 0.5, 0.25, 0.125], 0, 1.0, 1.0), [1]);
}

#[test]
fn what_is_kept_is_renormalised() {
    let kept = keep(&[0.1, 0.4, 0.2, 0.3], 2, 1.0, 0.0);
    // 0.4 and 0.3: the first has four sevenths.
    assert_eq!(choose(&kept, 0.0), TokenId(1));
    assert_eq!(choose(&kept, 0.571), TokenId(1));
    assert_eq!(choose(&kept, 0.572), TokenId(3));
    assert_eq!(choose(&kept, 1.0 - f64::EPSILON), TokenId(3));
}

#[test]
fn draws_follow_the_probabilities() {
    // Chi-squared, three degrees of freedom: above 16.27 once in a thousand.
    let want = [0.1, 0.2, 0.3, 0.4];
    let logits = want.map(|p: f64| p.ln() as f32);
    for seed in [0, 1, 2, u64::MAX] {
        let mut sampler = Sampler::new(SamplingParams { seed, ..params() }, &[]);
        let mut counts = [0.0; 4];
        let n = 40_000;
        for _ in 0..n {
            counts[sampler.draw(&logits).unwrap().token.0 as usize] += 1.0;
        }
        let expected = |p: f64| p * f64::from(n);
        let chi: f64 = counts.iter().zip(want).map(|(c, p)| (c - expected(p)).powi(2) / expected(p)).sum();
        assert!(chi < 16.27, "seed {seed}: {chi} of {counts:?}");
    }
}

#[test]
fn first_draws_of_neighbouring_seeds_are_independent() {
    let n = 40_000u64;
    let mean: f64 = (0..n).map(|seed| uniform(seed, 0)).sum::<f64>() / n as f64;
    let product: f64 = (0..n).map(|seed| uniform(seed, 0) * uniform(seed + 1, 0)).sum::<f64>() / n as f64;
    let next: f64 = (0..n).map(|seed| uniform(seed, 0) * uniform(seed, 1)).sum::<f64>() / n as f64;
    assert!((mean - 0.5).abs() < 0.006, "{mean}");
    assert!((product - 0.25).abs() < 0.006, "{product}");
    assert!((next - 0.25).abs() < 0.006, "{next}");
}

#[test]
fn a_draw_depends_on_seed_and_position_alone() {
    let logits: Vec<f32> = (0..100).map(|i| uniform(9, i) as f32).collect();
    let draw = |seed, n| {
        let mut sampler = Sampler::new(SamplingParams { seed, ..params() }, &tokens(&[1, 2, 3]));
        (0..n).map(|_| sampler.draw(&logits).unwrap().token).collect::<Vec<_>>()
    };
    assert_eq!(draw(7, 20), draw(7, 30)[..20]);
    assert_ne!(draw(7, 20), draw(8, 20));
}

#[test]
fn log_probabilities_come_from_the_raw_logits() {
    let params = SamplingParams {
        logprobs: Some(2),
        logit_bias: vec![(TokenId(3), -100.0), (TokenId(0), 100.0)],
        ..greedy()
    };
    let logits = [1.0f32, 2.0, 4.0, 8.0].map(f32::ln);
    let drawn = Sampler::new(params, &[]).draw(&logits).unwrap();
    assert_eq!(drawn.token, TokenId(0));
    let logprobs = drawn.logprobs.unwrap();
    let close = |got: f32, p: f32| (got - p.ln()).abs() < 1e-6;
    assert!(close(logprobs.logprob, 1.0 / 15.0));
    assert_eq!(logprobs.top.iter().map(|&(t, _)| t.0).collect::<Vec<_>>(), [3, 2]);
    assert!(close(logprobs.top[0].1, 8.0 / 15.0) && close(logprobs.top[1].1, 4.0 / 15.0));
}

#[test]
fn equally_likely_tokens_are_reported_by_ascending_id() {
    let top =
        |n| log_probabilities(&[0.0; 5], TokenId(4), n).top.iter().map(|&(t, _)| t.0).collect::<Vec<_>>();
    assert_eq!(top(3), [0, 1, 2]);
    assert_eq!(top(9), [0, 1, 2, 3, 4]);
    assert!(top(0).is_empty());
}

#[test]
fn a_logit_that_is_not_finite_is_an_error_not_a_token() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = Sampler::new(params(), &[]).draw(&[0.0, value]).unwrap_err();
        assert!(matches!(error, SampleError::NonFinite { token: TokenId(1), .. }));
    }
}

#[test]
fn extreme_but_finite_logits_and_parameters_draw_the_likeliest() {
    let params = SamplingParams { repetition_penalty: f32::MIN_POSITIVE, temperature: 1e-5, ..params() };
    let mut sampler = Sampler::new(params, &tokens(&[0]));
    assert_eq!(sampler.draw(&[f32::MAX, f32::MAX, f32::MIN]).unwrap().token, TokenId(0));
}

/// Allows what it is told to, and remembers what was drawn.
#[derive(Debug)]
struct Told {
    allowed: Result<Allowed, GuideError>,
    n_masks: usize,
    drawn: Vec<TokenId>,
}

impl Guide for Told {
    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        self.n_masks += 1;
        self.allowed.clone()
    }

    fn allows(&mut self, token: TokenId) -> Result<bool, GuideError> {
        Ok(self.allowed.clone()?.contains(token))
    }

    fn observe(&mut self, token: TokenId) -> Result<(), GuideError> {
        self.drawn.push(token);
        Ok(())
    }
}

fn told(allowed: Allowed) -> Told {
    Told { allowed: Ok(allowed), n_masks: 0, drawn: Vec::new() }
}

#[test]
fn only_tokens_that_the_guide_allows_are_drawn_and_it_is_told_which() {
    let logits = [9.0, 1.0, 1.0, 8.0];
    let only = Allowed::Only(tokens(&[1, 2]).into_iter().collect());
    for allowed in [only.clone(), Allowed::AllBut(tokens(&[0, 3]))] {
        let mut guide = told(allowed);
        let mut sampler = Sampler::new(params(), &[]);
        for _ in 0..50 {
            let token = sampler.draw_guided(&logits, Some(&mut guide)).unwrap().token;
            assert!([1, 2].contains(&token.0), "{token:?}");
        }
        assert_eq!(guide.drawn.len(), 50);
        let drawn = Sampler::new(greedy(), &[]).draw_guided(&logits, Some(&mut guide)).unwrap();
        assert_eq!(drawn.token, TokenId(1), "of equals the lowest id");
    }
    let params = SamplingParams { logprobs: Some(1), ..greedy() };
    let logprobs =
        Sampler::new(params, &[]).draw_guided(&[2.0, 0.0], Some(&mut told(Allowed::One(TokenId(1)))));
    assert_eq!(logprobs.unwrap().logprobs.unwrap().top[0].0, TokenId(0), "log-probabilities know no guide");
}

#[test]
fn a_greedy_draw_that_is_allowed_needs_no_mask() {
    let mut guide = told(Allowed::AllBut(tokens(&[0])));
    let drawn = Sampler::new(greedy(), &[]).draw_guided(&[1.0, 2.0], Some(&mut guide)).unwrap();
    assert_eq!((drawn.token, guide.n_masks), (TokenId(1), 0));
    let drawn = Sampler::new(greedy(), &[]).draw_guided(&[2.0, 1.0], Some(&mut guide)).unwrap();
    assert_eq!((drawn.token, guide.n_masks), (TokenId(1), 1));
}

#[test]
fn a_bias_that_bans_all_that_the_guide_allows_does_not_count() {
    let logit_bias = vec![(TokenId(1), -100.0), (TokenId(2), -100.0)];
    for temperature in [0.0, 1.0] {
        let params = SamplingParams { logit_bias: logit_bias.clone(), temperature, ..params() };
        let mut guide = told(Allowed::Only(tokens(&[1]).into_iter().collect()));
        let drawn = Sampler::new(params, &[]).draw_guided(&[5.0, 1.0, 1.0], Some(&mut guide)).unwrap();
        assert_eq!(drawn.token, TokenId(1));
    }
}

#[test]
fn a_guide_that_cannot_go_on_is_an_error() {
    let mut guide = Told { allowed: Err(GuideError::Stuck), n_masks: 0, drawn: Vec::new() };
    let error = Sampler::new(params(), &[]).draw_guided(&[0.0], Some(&mut guide)).unwrap_err();
    assert_eq!(error.to_string(), "the constraint on this answer leaves no token to go on with");
    let nothing = Allowed::Only(tokens(&[7]).into_iter().collect());
    assert!(Sampler::new(params(), &[]).draw_guided(&[0.0], Some(&mut told(nothing))).is_err());
}
