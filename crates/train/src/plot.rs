//! Curves of runs, as SVG.

use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, LineSeries, Palette, Palette99, PathElement, SVGBackend,
    SeriesLabelPosition, WHITE,
};

use crate::distill::DistillMetrics;
use crate::grpo::GrpoMetrics;
use crate::metrics::StepMetrics;

/// Pixels of a plot.
const SIZE: (u32, u32) = (900, 480);

/// The numbers of one step of a run, and what of them is drawn.
pub trait Measured: Sized {
    /// Which step, from 0.
    fn step(&self) -> u64;
    /// What can be drawn of a run that has steps like this one.
    fn quantities(&self) -> Vec<Quantity<Self>>;
}

/// What a plot shows over the steps.
#[derive(Clone, Debug)]
pub struct Quantity<M> {
    /// A word for file names.
    pub name: &'static str,
    unit: &'static str,
    curves: Vec<Curve<M>>,
}

/// The curve of one number.
#[derive(Clone, Debug)]
struct Curve<M> {
    /// What is added to the run's name.
    what: String,
    number: fn(&M, usize) -> f64,
    /// The number's second argument: which of several of its kind.
    index: usize,
}

impl<M> Quantity<M> {
    fn new(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, curves: Vec::new() }
    }

    /// With another curve.
    fn curve(self, what: &str, number: fn(&M, usize) -> f64) -> Self {
        self.curve_of(what.to_owned(), number, 0)
    }

    fn curve_of(mut self, what: String, number: fn(&M, usize) -> f64, index: usize) -> Self {
        self.curves.push(Curve { what, number, index });
        self
    }
}

impl Measured for StepMetrics {
    fn step(&self) -> u64 {
        self.step
    }

    fn quantities(&self) -> Vec<Quantity<Self>> {
        vec![
            Quantity::<Self>::new("loss", "nats per token")
                .curve("", |m, _| m.loss.next)
                .curve(" (validation)", |m, _| m.validation.unwrap_or(f64::NAN)),
            Quantity::<Self>::new("mtp", "nats per token").curve("", |m, _| m.loss.mtp),
            Quantity::<Self>::new("rate", "learning rate").curve("", |m, _| m.rate),
            Quantity::<Self>::new("grad-norm", "norm").curve("", |m, _| m.grad_norm),
            Quantity::<Self>::new("balance", "largest load over mean, less 1")
                .curve("", |m, _| m.max_violation)
                .curve(" (hash layers)", |m, _| m.max_violation_hash),
            Quantity::<Self>::new("speed", "tokens per second").curve("", |m, _| m.tokens_per_second),
        ]
    }
}

impl Measured for GrpoMetrics {
    fn step(&self) -> u64 {
        self.step
    }

    fn quantities(&self) -> Vec<Quantity<Self>> {
        vec![
            Quantity::<Self>::new("right", "share of answers")
                .curve("", |m, _| m.right)
                .curve(" (held out)", |m, _| m.held_out.unwrap_or(f64::NAN)),
            Quantity::<Self>::new("length", "tokens of an answer").curve("", |m, _| m.length),
            Quantity::<Self>::new("entropy", "nats").curve("", |m, _| m.entropy),
            Quantity::<Self>::new("distance", "nats per token from the reference")
                .curve("", |m, _| m.distance),
            Quantity::<Self>::new("grad-norm", "norm").curve("", |m, _| m.grad_norm),
        ]
    }
}

impl Measured for DistillMetrics {
    fn step(&self) -> u64 {
        self.step
    }

    fn quantities(&self) -> Vec<Quantity<Self>> {
        let number = |name, unit, number: fn(&Self, usize) -> f64| {
            let domains = 0..self.domains.len();
            domains.fold(Quantity::new(name, unit), |quantity, domain| {
                quantity.curve_of(format!(" (domain {})", domain + 1), number, domain)
            })
        };
        vec![
            number("divergence", "nats per token from the teacher", |m, domain| {
                m.domains.get(domain).map_or(f64::NAN, |domain| domain.divergence)
            }),
            number("right", "share of answers", |m, domain| {
                m.domains.get(domain).map_or(f64::NAN, |domain| domain.right)
            }),
            number("held-out", "share of answers", |m, domain| {
                m.domains.get(domain).and_then(|domain| domain.held_out).unwrap_or(f64::NAN)
            }),
            Quantity::<Self>::new("length", "tokens of an answer").curve("", |m, _| m.length),
            Quantity::<Self>::new("grad-norm", "norm").curve("", |m, _| m.grad_norm),
        ]
    }
}

/// Why there is no plot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlotError {
    /// No step of any run has a number for this.
    #[error("no step has a number for `{0}`")]
    Nothing(&'static str),
    /// Drawing failed.
    #[error("drawing `{quantity}`: {problem}")]
    Drawing {
        /// What was drawn.
        quantity: &'static str,
        /// What went wrong.
        problem: String,
    },
}

/// The curves of named runs as the text of an SVG file. Steps without a finite number are left out.
///
/// # Errors
/// If no step has one.
pub fn plot<M: Measured>(quantity: &Quantity<M>, runs: &[(&str, &[M])]) -> Result<String, PlotError> {
    let lines: Vec<Line> = runs
        .iter()
        .flat_map(|&(run, steps)| {
            quantity.curves.iter().map(move |Curve { what, number, index }| {
                let points = steps.iter().map(|metrics| (metrics.step() as f64, number(metrics, *index)));
                Line { name: format!("{run}{what}"), points: points.filter(|(_, y)| y.is_finite()).collect() }
            })
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    if lines.is_empty() {
        return Err(PlotError::Nothing(quantity.name));
    }
    let mut svg = String::new();
    draw(quantity.unit, &lines, &mut svg)
        .map_err(|problem| PlotError::Drawing { quantity: quantity.name, problem: problem.to_string() })?;
    Ok(svg)
}

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

fn draw(unit: &str, lines: &[Line], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(72)
        .build_cartesian_2d(range(lines, |point| point.0), range(lines, |point| point.1))?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(unit)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .max_light_lines(1)
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(WHITE)
        .draw()?;
    for (index, line) in lines.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), color))?
            .label(line.name.as_str())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

/// From the least to the greatest, and a little more.
fn range(lines: &[Line], coordinate: impl Fn(&(f64, f64)) -> f64) -> std::ops::Range<f64> {
    let all = lines.iter().flat_map(|line| &line.points).map(coordinate);
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    // A single value has room on both sides, whatever its size.
    let room = if high > low { 0.03 * (high - low) } else { 0.5 * low.abs().max(1e-9) };
    low - room..high + room
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::DomainMetrics;
    use crate::metrics::tests::step;

    fn quantity(name: &str) -> Quantity<StepMetrics> {
        step(0).quantities().into_iter().find(|quantity| quantity.name == name).expect("there is one")
    }

    #[test]
    fn a_plot_has_a_curve_per_run_and_measure_with_its_name() {
        let steps: Vec<StepMetrics> = (0..20).map(step).collect();
        let svg = plot(&quantity("loss"), &[("first", &steps[..]), ("second", &steps[..10])]).expect("drawn");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for name in ["first", "first (validation)", "second", "second (validation)", "step", "nats per token"]
        {
            assert!(svg.contains(name), "{name}");
        }
        // One line per curve, and one per entry of the legend.
        assert!(svg.matches("<polyline").count() >= 8);
        assert!(!svg.contains("NaN"));
    }

    fn every_quantity_is_drawn<M: Measured + Clone>(of: &M) {
        for quantity in of.quantities() {
            let svg = plot(&quantity, &[("run", std::slice::from_ref(of))]).expect("drawn");
            assert!(svg.contains(quantity.unit) && !svg.contains("NaN"), "{}", quantity.name);
        }
    }

    #[test]
    fn every_quantity_of_every_kind_of_run_is_drawn_even_of_one_step() {
        every_quantity_is_drawn(&step(0));
        every_quantity_is_drawn(&GrpoMetrics::default());
        let domain = DomainMetrics { held_out: Some(0.5), ..DomainMetrics::default() };
        let of_two = DistillMetrics { domains: vec![domain; 2], ..DistillMetrics::default() };
        every_quantity_is_drawn(&of_two);
        let svg = plot(&of_two.quantities()[0], &[("run", &[of_two])]).expect("drawn");
        assert!(svg.contains("(domain 1)") && svg.contains("(domain 2)"));
    }

    #[test]
    fn numbers_that_are_not_finite_are_left_out_and_alone_are_no_plot() {
        let broken = StepMetrics { grad_norm: f64::NAN, ..step(1) };
        let grad_norm = quantity("grad-norm");
        assert!(plot(&grad_norm, &[("run", &[step(0), broken, step(2)])]).is_ok());
        let nothing = plot(&grad_norm, &[("run", &[broken]), ("empty", &[])]);
        assert_eq!(nothing, Err(PlotError::Nothing("grad-norm")));
    }
}
