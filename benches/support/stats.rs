//! A table for people.

/// Prints rows below a head, the first column to the left and the others to the right, as Markdown.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).chain([head[column].chars().count()]).max().unwrap_or_default())
        .collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
    };
    line(head.to_vec());
    let rules: Vec<String> = widths.iter().enumerate().map(|(column, width)| rule(column, *width)).collect();
    line(rules.iter().map(String::as_str).collect());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
    println!();
}

fn rule(column: usize, width: usize) -> String {
    if column == 0 { "-".repeat(width) } else { format!("{}:", "-".repeat(width.saturating_sub(1))) }
}
