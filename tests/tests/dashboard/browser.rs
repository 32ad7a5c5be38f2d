//! The page of a run of the program, in a browser without a window.

use std::io::Write as _;

use gleaner_tests::browser::{Browser, View};
use gleaner_tests::plain_job;

use super::start;

const WIDE: View = View {
    width: 1280,
    height: 900,
    is_dark: false,
};
const PHONE: View = View {
    width: 390,
    height: 844,
    is_dark: true,
};
/// A file's name that would do harm in a page that took it for HTML.
const HARM: &str = "corpus/<img src=x onerror=document.title='harm'>.parquet";

#[test]
fn a_page_shows_a_run_before_its_start_and_after_its_end() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let workspace = plain_job::workspace(2);
    workspace.write(HARM, b"PAR1 is not all it takes");
    let (mut run, port) = start(&workspace, &["--set", "allow.quarantined_tasks=1"]);
    browser.look(WIDE);
    browser.open(&format!("http://localhost:{port}/"));
    browser.await_that("document.getElementById('state')?.dataset.state === 'starting'");
    let title = "document.getElementById('now-title').textContent";
    assert_eq!(browser.value(title), "Waiting for the plan");
    assert_eq!(
        browser.value("document.getElementById('stages-hint').textContent"),
        "None is known yet."
    );

    let mut stdin = run.stdin.take().unwrap();
    stdin.write_all(plain_job::JOB.as_bytes()).unwrap();
    drop(stdin);
    browser.await_that("document.getElementById('state').dataset.state === 'done'");
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    // The process is gone; its last figures stay, and the page says so.
    browser.await_that(
        "document.getElementById('banner').textContent.startsWith('The run has ended')",
    );
    assert_eq!(browser.value(title), "Done");
    assert_eq!(
        browser.value("document.getElementById('job').textContent"),
        "plain"
    );
    let facts = "document.getElementById('now-facts').textContent";
    assert_eq!(browser.value(facts), "Version 1 is published.");
    let names = "[...document.querySelectorAll('.stage .name')].map((it) => it.textContent).join()";
    let names = browser.value(names);
    assert!(names.as_str().unwrap().contains("weights"), "{names}");
    let chosen = "document.querySelector('#stage-list > li:nth-child(2) .facts').textContent";
    let chosen = browser.value(chosen);
    assert!(
        chosen.as_str().unwrap().starts_with("10 rows written"),
        "{chosen}"
    );

    // What comes from data is text, whatever it looks like.
    let causes = browser.value("document.getElementById('cause-list').textContent");
    assert!(causes.as_str().unwrap().contains(HARM), "{causes}");
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0);
    assert_ne!(browser.value("document.title"), "harm");

    // Nothing stands out of a phone's width, in either scheme.
    let background = "getComputedStyle(document.body).backgroundColor";
    let light = browser.value(background);
    browser.look(PHONE);
    let width = "document.documentElement.scrollWidth <= innerWidth";
    browser.await_that(width);
    browser.await_that("innerWidth === 390");
    assert_ne!(browser.value(background), light);
    assert!(browser.picture().len() > 10_000);

    // By keyboard: the first stop leads past the head, the next ones open and close a stage.
    browser.press("Tab", 9);
    assert_eq!(browser.value("document.activeElement.className"), "skip");
    browser.press("Enter", 13);
    browser.await_that("document.activeElement.id === 'stages' || location.hash === '#stages'");
    browser.press("Tab", 9);
    assert_eq!(browser.value("document.activeElement.tagName"), "SUMMARY");
    let is_open = "document.querySelector('#stage-list details').open";
    assert_eq!(browser.value(is_open), false);
    browser.press("Enter", 13);
    browser.await_that(is_open);

    // For who listens: bars have names and values, the end is said.
    let nodes = browser.accessible();
    let bars: Vec<_> = nodes.iter().filter(|it| it[0] == "progressbar").collect();
    assert!(bars.len() >= 2, "{nodes:?}");
    assert!(bars.iter().all(|it| !it[1].is_empty()), "{bars:?}");
    assert!(
        nodes
            .iter()
            .any(|it| it[0] == "heading" && it[1] == "Stages")
    );
    assert_eq!(
        browser.value("document.querySelector('[role=status]').textContent"),
        "The run has ended: done."
    );
    // Nothing was refused by the page's policy, and nothing thrown. The connection's end may be told.
    let wrong = browser.complaints().iter();
    let wrong: Vec<_> = wrong.filter(|it| !it.contains("net::ERR_")).collect();
    assert_eq!(wrong, [] as [&String; 0]);
}

#[test]
fn a_page_whose_process_is_killed_keeps_the_last_figures_and_says_so() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let workspace = plain_job::workspace(1);
    let (mut run, port) = start(&workspace, &[]);
    browser.open(&format!("http://127.0.0.1:{port}/"));
    browser.await_that("document.getElementById('state')?.dataset.state === 'starting'");
    run.kill().unwrap();
    run.wait().unwrap();
    browser.await_that("document.getElementById('state').dataset.state === 'lost'");
    let banner = browser.value("document.getElementById('banner').textContent");
    assert!(
        banner
            .as_str()
            .unwrap()
            .starts_with("The connection was lost"),
        "{banner}"
    );
    // Figures are there still.
    let elapsed = browser.value("document.querySelector('#figures dd').textContent");
    assert!(!elapsed.as_str().unwrap().is_empty());
}
