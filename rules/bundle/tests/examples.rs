//! The examples of this repository: no mistake, no warning, every scenario passes, all of them in no time.

use std::path::{Path, PathBuf};

use celesta_bundle::{Bundle, Files, read_folder, scenario};

fn examples() -> Vec<(PathBuf, Files, Bundle)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let folders = std::fs::read_dir(folder).expect("the examples are there");
    let folders = folders
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.join("service.toml").is_file());
    folders
        .map(|path| {
            let files = read_folder(&path).expect("a readable example");
            match Bundle::compile(&files) {
                Ok(bundle) => (path, files, bundle),
                Err(errors) => panic!("{}:\n{errors}", path.display()),
            }
        })
        .collect()
}

#[test]
fn every_example_is_without_mistakes_and_warnings() {
    let examples = examples();
    assert!(examples.len() >= 2);
    for (path, _, bundle) in examples {
        let folder = path.file_name().and_then(|name| name.to_str());
        assert_eq!(folder, Some(bundle.name.as_str()));
        assert_eq!(bundle.warnings, [], "{}", path.display());
    }
}

#[test]
fn every_scenario_of_every_example_passes() {
    for (path, files, bundle) in examples() {
        let report = match scenario::run_scenarios(&bundle, &files, None) {
            Ok(report) => report,
            Err(errors) => panic!("{}:\n{errors}", path.display()),
        };
        assert!(report.results.len() >= 6, "{} has few scenarios", path.display());
        let failed: Vec<String> = report
            .results
            .iter()
            .filter(|result| !result.passed)
            .map(ToString::to_string)
            .collect();
        assert!(failed.is_empty(), "{}:\n{}", path.display(), failed.join("\n"));
    }
}

#[test]
fn the_same_scenarios_give_the_same_report() {
    for (_, files, bundle) in examples() {
        let once = scenario::run_scenarios(&bundle, &files, None).ok();
        assert_eq!(once, scenario::run_scenarios(&bundle, &files, None).ok());
    }
}
