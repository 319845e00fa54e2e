//! Curves of runs, as SVG.

use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, LineSeries, Palette, Palette99, PathElement, SVGBackend,
    SeriesLabelPosition, WHITE,
};

use crate::metrics::StepMetrics;

/// Pixels of a plot.
const SIZE: (u32, u32) = (900, 480);

/// What a plot shows over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// Loss of the next token, and on documents that are not trained on; nats per token.
    Loss,
    /// Loss of the MTP block, nats per token.
    Mtp,
    /// Learning rate.
    Rate,
    /// Norm of the gradients.
    GradNorm,
    /// Imbalance of experts, of layers that route by score and of hash layers.
    Balance,
    /// Tokens per second.
    Speed,
}

/// The number of a step that a curve shows.
type NumberOf = fn(&StepMetrics) -> f64;

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

impl Quantity {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Loss, Self::Mtp, Self::Rate, Self::GradNorm, Self::Balance, Self::Speed];

    /// A word for file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Mtp => "mtp",
            Self::Rate => "rate",
            Self::GradNorm => "grad-norm",
            Self::Balance => "balance",
            Self::Speed => "speed",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Loss | Self::Mtp => "nats per token",
            Self::Rate => "learning rate",
            Self::GradNorm => "norm",
            Self::Balance => "largest load over mean, less 1",
            Self::Speed => "tokens per second",
        }
    }

    /// The curves: what is added to the run's name, and the number of a step.
    fn curves(self) -> Vec<(&'static str, NumberOf)> {
        match self {
            Self::Loss => {
                vec![("", |m| m.loss.next), (" (validation)", |m| m.validation.unwrap_or(f64::NAN))]
            }
            Self::Mtp => vec![("", |m| m.loss.mtp)],
            Self::Rate => vec![("", |m| m.rate)],
            Self::GradNorm => vec![("", |m| m.grad_norm)],
            Self::Balance => vec![("", |m| m.max_violation), (" (hash layers)", |m| m.max_violation_hash)],
            Self::Speed => vec![("", |m| m.tokens_per_second)],
        }
    }
}

/// The curves of named runs as the text of an SVG file. Steps without a finite number are left out.
///
/// # Errors
/// If no step has one.
pub fn plot(quantity: Quantity, runs: &[(&str, &[StepMetrics])]) -> Result<String, PlotError> {
    let curves: Vec<Curve> = runs
        .iter()
        .flat_map(|&(run, steps)| {
            quantity.curves().into_iter().map(move |(what, number)| {
                let points = steps.iter().map(|metrics| (metrics.step as f64, number(metrics)));
                Curve {
                    name: format!("{run}{what}"),
                    points: points.filter(|(_, y)| y.is_finite()).collect(),
                }
            })
        })
        .filter(|curve| !curve.points.is_empty())
        .collect();
    if curves.is_empty() {
        return Err(PlotError::Nothing(quantity.name()));
    }
    let mut svg = String::new();
    draw(quantity, &curves, &mut svg)
        .map_err(|problem| PlotError::Drawing { quantity: quantity.name(), problem: problem.to_string() })?;
    Ok(svg)
}

struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

fn draw(quantity: Quantity, curves: &[Curve], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(72)
        .build_cartesian_2d(range(curves, |point| point.0), range(curves, |point| point.1))?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(quantity.unit())
        .x_label_formatter(&|step| format!("{step:.0}"))
        .max_light_lines(1)
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(WHITE)
        .draw()?;
    for (index, curve) in curves.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), color))?
            .label(curve.name.as_str())
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
fn range(curves: &[Curve], coordinate: impl Fn(&(f64, f64)) -> f64) -> std::ops::Range<f64> {
    let all = curves.iter().flat_map(|curve| &curve.points).map(coordinate);
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    // A single value has room on both sides, whatever its size.
    let room = if high > low { 0.03 * (high - low) } else { 0.5 * low.abs().max(1e-9) };
    low - room..high + room
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::step;

    #[test]
    fn a_plot_has_a_curve_per_run_and_measure_with_its_name() {
        let steps: Vec<StepMetrics> = (0..20).map(step).collect();
        let svg = plot(Quantity::Loss, &[("first", &steps[..]), ("second", &steps[..10])]).expect("drawn");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for name in ["first", "first (validation)", "second", "second (validation)", "step", "nats per token"]
        {
            assert!(svg.contains(name), "{name}");
        }
        // One line per curve, and one per entry of the legend.
        assert!(svg.matches("<polyline").count() >= 8);
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn every_quantity_is_drawn_even_of_one_step() {
        for quantity in Quantity::ALL {
            let svg = plot(quantity, &[("run", &[step(0)])]).expect("drawn");
            assert!(svg.contains(quantity.unit()) && !svg.contains("NaN"), "{quantity:?}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_left_out_and_alone_are_no_plot() {
        let broken = StepMetrics { grad_norm: f64::NAN, ..step(1) };
        assert!(plot(Quantity::GradNorm, &[("run", &[step(0), broken, step(2)])]).is_ok());
        let nothing = plot(Quantity::GradNorm, &[("run", &[broken]), ("empty", &[])]);
        assert_eq!(nothing, Err(PlotError::Nothing("grad-norm")));
    }
}
