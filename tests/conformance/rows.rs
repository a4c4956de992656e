//! What the suite asks, beside what there is to ask: each row of the inventory of Consul's interfaces (names and rules of DNS, the HTTP
//! API, types of checks, commands), with a text that a question of the scripts has when it is about that row.

use std::fs;

use crate::script;

/// Section, row, and texts that must all stand in questions (or in what goes with them).
const ROWS: &[(&str, &str, &[&str])] = &[];

#[test]
fn every_row_of_the_inventory_is_asked() {
    let dir = script::path("kv").parent().unwrap().to_owned();
    let mut asked = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            // Answers are no questions.
            if !["| ", "/ ", "#"].iter().any(|p| line.starts_with(p)) {
                asked.push_str(line);
                asked.push('\n');
            }
        }
    }
    let missing: Vec<String> = ROWS
        .iter()
        .flat_map(|(section, row, texts)| texts.iter().map(move |text| (section, row, text)))
        .filter(|(.., text)| !asked.contains(**text))
        .map(|(section, row, text)| format!("{section} {row}: nothing asks {text:?}"))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
