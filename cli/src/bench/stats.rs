//! Statistics of few measurements with outliers: medians and quartiles.

use serde::Serialize;

/// Median and quartiles of one side's values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub lower_quartile: f64,
    pub upper_quartile: f64,
}

impl Summary {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Summary {
            median: quantile(&sorted, 0.5),
            lower_quartile: quantile(&sorted, 0.25),
            upper_quartile: quantile(&sorted, 0.75),
        }
    }
}

/// How two sides compare whose values were taken in turns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the medians.
    pub of_medians: f64,
    /// Quartiles of the ratios of each round: how far to trust it.
    pub lower_quartile: f64,
    pub upper_quartile: f64,
}

impl Ratio {
    /// `ours` and `theirs` have a value of each round.
    pub fn of(ours: &[f64], theirs: &[f64]) -> Self {
        let rounds: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        let spread = Summary::of(&rounds);
        Ratio {
            of_medians: Summary::of(ours).median / Summary::of(theirs).median,
            lower_quartile: spread.lower_quartile,
            upper_quartile: spread.upper_quartile,
        }
    }
}

/// By linear interpolation between neighbours; NaN of nothing.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let position = q * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&[5.0], [5.0, 5.0, 5.0])]
    #[case(&[4.0, 2.0], [2.5, 3.0, 3.5])]
    #[case(&[5.0, 1.0, 4.0, 2.0, 3.0], [2.0, 3.0, 4.0])]
    // One that the machine held up moves no median.
    #[case(&[1.0, 1.0, 1.0, 1.0, 900.0], [1.0, 1.0, 1.0])]
    fn quartiles(#[case] values: &[f64], #[case] expected: [f64; 3]) {
        let summary = Summary::of(values);
        let got = [
            summary.lower_quartile,
            summary.median,
            summary.upper_quartile,
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_ratio_pairs_the_rounds() {
        // The machine became half as fast in the last round, for both.
        let ratio = Ratio::of(&[10.0, 10.0, 20.0], &[20.0, 20.0, 40.0]);
        assert_eq!(ratio.of_medians, 0.5);
        assert_eq!((ratio.lower_quartile, ratio.upper_quartile), (0.5, 0.5));
    }
}
