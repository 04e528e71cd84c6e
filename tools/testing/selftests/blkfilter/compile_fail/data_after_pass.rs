// SPDX-License-Identifier: GPL-2.0
//~ E0505: the data is not ours after the verdict
fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    let data = bio.data();
    let len = data.as_ref().map(Data::len); //~ good
    let verdict = bio.pass(); //~ bad
    let len = data.as_ref().map(Data::len); //~ bad
    let verdict = bio.pass(); //~ good
    verdict
}
