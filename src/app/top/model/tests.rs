use super::*;
use crate::app::admin::ServiceGrants;
use crate::app::top::view::tests::{grant, overview};

/// A page of grants: `first`, and those after it.
fn page(first: u64, count: u64, next: Option<&str>) -> GrantPage {
    let lines = (first..first + count).map(|number| grant(number, "ssh", 30, 20)).collect();
    GrantPage { services: Vec::<ServiceGrants>::new(), lines, next: next.map(str::to_owned) }
}

fn answer(model: &mut Model, page: GrantPage) {
    let wanted = model.wanted();
    model.answer(Answer { wanted, overview: overview(17, 0), page });
}

/// A model that shows the first three of nine grants.
fn shows_three() -> Model {
    let mut model = Model::default();
    model.set_rows(3);
    answer(&mut model, page(1, 3, Some("3")));
    model
}

#[test]
fn only_what_is_shown_is_asked_for_page_by_page() {
    let mut model = shows_three();
    assert_eq!(model.wanted(), Wanted { after: None, most: 3 });
    for _ in 0..2 {
        assert_eq!(model.input(Input::Down), None);
    }
    assert_eq!(model.input(Input::Down), Some(Order::Ask), "past the last row");
    assert_eq!(model.wanted(), Wanted { after: Some("3".into()), most: 3 });
    answer(&mut model, page(4, 3, Some("6")));
    assert_eq!((model.first_row(), model.selected), (4, 0));
    assert_eq!(model.input(Input::PageDown), Some(Order::Ask));
    answer(&mut model, page(7, 3, None));
    assert_eq!(model.first_row(), 7);
    assert_eq!(model.input(Input::PageDown), None, "that was the last page");
    assert_eq!(model.input(Input::Up), Some(Order::Ask));
    answer(&mut model, page(4, 3, Some("6")));
    assert_eq!((model.first_row(), model.selected), (4, 2), "the last row of the page before");
    assert_eq!(model.input(Input::Home), Some(Order::Ask));
    assert_eq!(model.wanted().after, None);
}

#[test]
fn an_answer_about_a_page_that_was_left_shows_no_other_grants() {
    let mut model = shows_three();
    let late = model.wanted();
    model.input(Input::PageDown);
    answer(&mut model, page(4, 3, None));
    model.answer(Answer { wanted: late, overview: overview(17, 0), page: page(1, 3, Some("3")) });
    assert_eq!(model.grants[0].client, "client4");
}

#[test]
fn a_page_whose_grants_have_all_ended_gives_way_to_the_one_before() {
    let mut model = shows_three();
    model.input(Input::PageDown);
    answer(&mut model, page(4, 0, None));
    assert_eq!(model.wanted().after, None);
}

#[test]
fn a_grant_ends_and_a_client_is_revoked_only_after_a_yes() {
    for (key, order) in [
        ('e', Order::Close("client2/ssh@192.0.2.2".into())),
        ('r', Order::Revoke("client2".into())),
    ] {
        for no in [Input::Character('n'), Input::Other, Input::Down, Input::Character('e')] {
            let mut model = shows_three();
            model.input(Input::Down);
            assert_eq!(model.input(Input::Character(key)), None);
            assert!(model.question.is_some());
            assert_eq!(model.input(no), None, "{no:?}");
            assert_eq!((model.question.as_ref(), model.selected), (None, 1));
            assert_eq!(model.input(Input::Character('y')), None, "nothing is asked any more");
        }
        let mut model = shows_three();
        model.input(Input::Down);
        model.input(Input::Character(key));
        // Another page of grants comes before the answer: what was asked stays.
        answer(&mut model, page(5, 3, None));
        assert_eq!(model.input(Input::Character('y')), Some(order));
    }
}

#[test]
fn a_door_cannot_be_revoked() {
    let mut model = Model::default();
    model.set_rows(3);
    let mut page = page(1, 1, None);
    page.lines[0].client = "door side".into();
    answer(&mut model, page);
    assert_eq!(model.input(Input::Character('r')), None);
    assert_eq!(model.question, None);
    assert!(model.said.unwrap().contains("door side is no client"));
}

#[test]
fn without_a_grant_nothing_can_be_ended() {
    let mut model = Model::default();
    for key in ['e', 'r', 'y'] {
        assert_eq!(model.input(Input::Character(key)), None);
        assert_eq!(model.question, None);
    }
}

#[test]
fn junk_is_counted_by_the_second_and_not_across_a_gateway_that_was_away() {
    let mut model = Model::default();
    let mut tell = |pid, junk| -> Vec<u64> {
        let wanted = model.wanted();
        model.answer(Answer { wanted, overview: overview(pid, junk), page: page(1, 0, None) });
        Vec::from_iter(model.junk.iter().copied())
    };
    assert_eq!(tell(17, 100), [0; 0]);
    assert_eq!(tell(17, 107), [7]);
    assert_eq!(tell(18, 3), [7], "another process counts from nothing");
    assert_eq!(tell(18, 5), [7, 2]);
    for _ in 0..2 * SECONDS {
        tell(18, 5);
    }
    assert_eq!(tell(18, 5).len(), SECONDS);
    model.failed(&Fault::new("no toctocd is running here", ""), "14:03:20");
    model.failed(&Fault::new("still none", ""), "14:03:21");
    assert_eq!(model.trouble.as_ref().unwrap().since, "14:03:20");
    assert_eq!(model.trouble.as_ref().unwrap().what, "still none");
    answer(&mut model, page(1, 1, None));
    assert_eq!(model.trouble, None);
    assert_eq!(model.junk.len(), SECONDS, "nobody knows when the junk of a gap came");
}

#[test]
fn ctrl_c_quits_whatever_is_asked_and_q_does_not_answer_a_question() {
    let mut model = shows_three();
    model.input(Input::Character('e'));
    assert_eq!(model.input(Input::Character('q')), None);
    assert_eq!(model.input(Input::Character('q')), Some(Order::Quit));
    model.input(Input::Character('e'));
    assert_eq!(model.input(Input::Interrupt), Some(Order::Quit));
}
