//! Made-up traces of the shape of V4-Flash: 43 layers, 256 experts, 6 of them per token.

use crate::trace::{Process, Trace, distinct};

const N_LAYERS: usize = 43;
const N_EXPERTS: usize = 256;
const PER_TOKEN: usize = 6;
/// Tokens of a prefill.
const PREFILL: usize = 512;

/// SplitMix64: traces must be the same everywhere, always.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// The popularity of a layer's experts: the expert of rank `r` in proportion to `1 / r^s`, ranks shuffled.
struct Popularity {
    by_rank: Vec<u16>,
    cumulative: Vec<f64>,
}

impl Popularity {
    fn new(s: f64, random: &mut Random) -> Self {
        let mut by_rank: Vec<u16> = (0..N_EXPERTS as u16).collect();
        for i in (1..N_EXPERTS).rev() {
            by_rank.swap(i, random.below(i + 1));
        }
        let mut sum = 0.0;
        let mut cumulative = Vec::new();
        for rank in 1..=N_EXPERTS {
            sum += (rank as f64).powf(-s);
            cumulative.push(sum);
        }
        Self { by_rank, cumulative }
    }

    /// By expert: the chance that a draw gives it.
    fn chances(&self) -> Vec<f64> {
        let mut chances = vec![0.0; N_EXPERTS];
        let mut before = 0.0;
        for (&expert, &sum) in self.by_rank.iter().zip(&self.cumulative) {
            chances[usize::from(expert)] = (sum - before) / self.cumulative[N_EXPERTS - 1];
            before = sum;
        }
        chances
    }

    fn draw(&self, random: &mut Random) -> u16 {
        let place = random.unit() * self.cumulative[N_EXPERTS - 1];
        self.by_rank[self.cumulative.partition_point(|&sum| sum <= place)]
    }
}

/// What a made-up run is like.
#[derive(Clone, Copy)]
struct Kind {
    /// Exponent of the popularity.
    s: f64,
    /// Topics, each with its own popularity; a topic lasts 200 to 500 tokens.
    n_topics: usize,
    /// The chance that an expert follows the topic, not the popularity that all topics share.
    topical: f64,
    /// The chance that an expert of the token before is used again.
    sticky: f64,
    /// Whether each topic begins with a prefill of 512 tokens.
    prefills: bool,
}

/// The traces of the table: popularity alone, in three strengths; tokens that use what the one before used; topics
/// that come and go; the same after prefills; all of it at once.
pub fn all(n_tokens: usize) -> Vec<Trace> {
    let plain = |s| Kind { s, n_topics: 1, topical: 0.0, sticky: 0.0, prefills: false };
    let topics = Kind { n_topics: 8, topical: 0.7, ..plain(1.0) };
    let kinds = [
        ("zipf 0.6", plain(0.6)),
        ("zipf 1.0", plain(1.0)),
        ("zipf 1.4", plain(1.4)),
        ("sticky", Kind { sticky: 0.3, ..plain(0.6) }),
        ("topics", topics),
        ("topics, prefills", Kind { prefills: true, ..topics }),
        ("sticky topics, prefills", Kind { topical: 0.5, sticky: 0.3, prefills: true, ..topics }),
    ];
    kinds.map(|(name, kind)| generate(name, kind, n_tokens)).into()
}

/// A run of `n_tokens` decoded tokens.
fn generate(name: &str, kind: Kind, n_tokens: usize) -> Trace {
    let mut random = Random(name.bytes().fold(0, |seed, byte| seed * 31 + u64::from(byte)));
    let popularities =
        |random: &mut Random| (0..N_LAYERS).map(|_| Popularity::new(kind.s, random)).collect::<Vec<_>>();
    let shared = popularities(&mut random);
    let topics: Vec<_> = (0..kind.n_topics).map(|_| popularities(&mut random)).collect();
    let mut before = vec![Vec::new(); N_LAYERS];
    let (mut steps, mut topic, mut left) = (Vec::new(), 0, 0);
    let (mut topic_of, mut last) = (Vec::new(), Vec::new());
    for _ in 0..n_tokens {
        let begins = left == 0;
        if begins {
            (topic, left) = (random.below(kind.n_topics), 200 + random.below(301));
        }
        left -= 1;
        let mut step = |n: usize| {
            let layers = shared.iter().zip(&topics[topic]).zip(&mut before);
            let uses =
                layers.map(|((shared, topic), before)| uses(kind, n, shared, topic, before, &mut random));
            steps.push(uses.collect());
            topic_of.push(topic);
            last.push(before.clone());
        };
        if begins && kind.prefills {
            step(PREFILL);
        }
        step(1);
    }
    let chances = topics.iter().map(|topic| chances(kind, &shared, topic)).collect();
    let process = Process { chances, sticky: kind.sticky, per_token: PER_TOKEN, topics: topic_of, last };
    Trace { name: name.to_owned(), n_layers: N_LAYERS, n_experts: N_EXPERTS, steps, process: Some(process) }
}

/// By the expert's number in the whole model: the chance that a draw in that topic gives it.
fn chances(kind: Kind, shared: &[Popularity], topic: &[Popularity]) -> Vec<f64> {
    let of_layers = |layers: &[Popularity]| layers.iter().flat_map(Popularity::chances).collect::<Vec<_>>();
    let both = of_layers(shared).into_iter().zip(of_layers(topic));
    both.map(|(shared, topic)| shared + kind.topical * (topic - shared)).collect()
}

/// The experts of one layer in a step of `n_tokens`.
fn uses(
    kind: Kind,
    n_tokens: usize,
    shared: &Popularity,
    topic: &Popularity,
    before: &mut Vec<u16>,
    random: &mut Random,
) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..n_tokens {
        let mut token: Vec<u16> = before.drain(..).filter(|_| random.unit() < kind.sticky).collect();
        while token.len() < PER_TOKEN {
            let popularity = if random.unit() < kind.topical { topic } else { shared };
            let expert = popularity.draw(random);
            if !token.contains(&expert) {
                token.push(expert);
            }
        }
        all.extend_from_slice(&token);
        *before = token;
    }
    distinct(all.into_iter())
}
