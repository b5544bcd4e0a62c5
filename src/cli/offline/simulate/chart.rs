//! Shares before and after, side by side: in a terminal and as an image.

use std::fmt::Write as _;

use crate::inspect::simulate::Simulation;

/// Row: a target or the unserved requests, the shares before and after, and true if the target is down.
struct ChartRow {
    tier: String,
    name: String,
    before: f64,
    after: f64,
    down: bool,
}

fn rows(before: &Simulation, after: &Simulation) -> Vec<ChartRow> {
    let targets = before.targets.iter().zip(&after.targets).map(|(before, after)| ChartRow {
        tier: after.tier.to_string(),
        name: after.address.to_string(),
        before: before.share,
        after: after.share,
        down: after.down,
    });
    let unserved = ChartRow {
        tier: String::new(),
        name: "503 by Envoy".to_owned(),
        before: before.unserved,
        after: after.unserved,
        down: false,
    };
    targets.chain((unserved.before + unserved.after > 0.0).then_some(unserved)).collect()
}

/// Formats a table with a bar for each target, before and after.
pub(super) fn bars(title: &str, before: &Simulation, after: &Simulation) -> String {
    let rows = rows(before, after);
    let name = rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max("target".len());
    let mut text = format!("{title}\n\ntier  {:name$}  {:33}after\n", "target", "before");
    for row in rows {
        let down = if row.down { " down" } else { "" };
        let line = format!(
            "{:4}  {:name$}  {:5.1} % {:24}  {:5.1} % {}{down}",
            row.tier,
            row.name,
            row.before,
            bar(row.before),
            row.after,
            bar(row.after),
        );
        let _ = writeln!(text, "{}", line.trim_end()); // Writing to a string cannot fail.
    }
    text
}

/// Draws a bar for each target, before and after, as an SVG image.
pub(super) fn svg(title: &str, before: &Simulation, after: &Simulation) -> String {
    let rows = rows(before, after);
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"880\" height=\"{}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"28\" font-size=\"16\">{}</text>\n\
         <text x=\"300\" y=\"56\">before</text>\n<text x=\"590\" y=\"56\">after</text>\n",
        84 + 28 * rows.len(),
        escape(title),
    );
    let mut y = 68;
    for row in &rows {
        let colour = match row {
            ChartRow { down: true, .. } => "#b0b0b0",
            ChartRow { tier, .. } if tier.is_empty() => "#c62828",
            ChartRow { tier, .. } if tier == "0" => "#2e7d32",
            ChartRow { .. } => "#ef6c00",
        };
        let label = match row {
            ChartRow { down: true, .. } => format!("{} (down)", row.name),
            ChartRow { tier, .. } if tier.is_empty() => row.name.clone(),
            ChartRow { .. } => format!("{} (tier {})", row.name, row.tier),
        };
        let _ = writeln!(text, "<text x=\"16\" y=\"{}\">{}</text>", y + 15, escape(&label));
        for (x, share) in [(300, row.before), (590, row.after)] {
            let width = share * 2.0;
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{share:.1} %</text>",
                f64::from(x) + width + 6.0,
                y + 15,
            );
        }
        y += 28;
    }
    text + "</svg>\n"
}

/// Returns a bar of up to 24 columns, to an eighth of one. 100 % are 24 columns.
fn bar(share: f64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share / 100.0 * 24.0 * 8.0).round() as usize;
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}
