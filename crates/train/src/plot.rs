//! Curves of runs, as SVG.

use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, LineSeries, Palette, Palette99, PathElement, SVGBackend,
    SeriesLabelPosition, WHITE,
};

use crate::distill::{DistillMetrics, DomainMetrics};
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
pub struct Quantity<M> {
    /// A word for file names.
    pub name: &'static str,
    unit: &'static str,
    curves: Vec<Curve<M>>,
}

/// What is added to the run's name, and the number of a step.
type Curve<M> = (String, Box<dyn Fn(&M) -> f64>);

impl<M> Quantity<M> {
    /// Without curves.
    fn new(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, curves: Vec::new() }
    }

    /// Of a single number.
    fn of(name: &'static str, unit: &'static str, number: impl Fn(&M) -> f64 + 'static) -> Self {
        Self::new(name, unit).and("", number)
    }

    /// With another curve.
    fn and(mut self, what: impl Into<String>, number: impl Fn(&M) -> f64 + 'static) -> Self {
        self.curves.push((what.into(), Box::new(number)));
        self
    }
}

impl Measured for StepMetrics {
    fn step(&self) -> u64 {
        self.step
    }

    fn quantities(&self) -> Vec<Quantity<Self>> {
        vec![
            Quantity::of("loss", "nats per token", |m: &Self| m.loss.next)
                .and(" (validation)", |m| m.validation.unwrap_or(f64::NAN)),
            Quantity::of("mtp", "nats per token", |m: &Self| m.loss.mtp),
            Quantity::of("rate", "learning rate", |m: &Self| m.rate),
            Quantity::of("grad-norm", "norm", |m: &Self| m.grad_norm),
            Quantity::of("balance", "largest load over mean, less 1", |m: &Self| m.max_violation)
                .and(" (hash layers)", |m| m.max_violation_hash),
            Quantity::of("speed", "tokens per second", |m: &Self| m.tokens_per_second),
        ]
    }
}

impl Measured for GrpoMetrics {
    fn step(&self) -> u64 {
        self.step
    }

    fn quantities(&self) -> Vec<Quantity<Self>> {
        vec![
            Quantity::of("right", "share of answers", |m: &Self| m.right)
                .and(" (held out)", |m| m.held_out.unwrap_or(f64::NAN)),
            Quantity::of("length", "tokens of an answer", |m: &Self| m.length),
            Quantity::of("entropy", "nats", |m: &Self| m.entropy),
            Quantity::of("distance", "nats per token from the reference", |m: &Self| m.distance),
            Quantity::of("grad-norm", "norm", |m: &Self| m.grad_norm),
        ]
    }
}

impl Measured for DistillMetrics {
    fn step(&self) -> u64 {
        self.step
    }

    fn quantities(&self) -> Vec<Quantity<Self>> {
        let by_domain = |name, unit, number: fn(&DomainMetrics) -> f64| {
            (0..self.domains.len()).fold(Quantity::new(name, unit), |quantity, index| {
                let of_domain = move |m: &Self| m.domains.get(index).map_or(f64::NAN, number);
                quantity.and(format!(" (domain {})", index + 1), of_domain)
            })
        };
        vec![
            by_domain("divergence", "nats per token from the teacher", |domain| domain.divergence),
            by_domain("right", "share of answers", |domain| domain.right),
            by_domain("held-out", "share of answers", |domain| domain.held_out.unwrap_or(f64::NAN)),
            Quantity::of("length", "tokens of an answer", |m: &Self| m.length),
            Quantity::of("grad-norm", "norm", |m: &Self| m.grad_norm),
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
            quantity.curves.iter().map(move |(what, number)| {
                let points = steps.iter().map(|metrics| (metrics.step() as f64, number(metrics)));
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
