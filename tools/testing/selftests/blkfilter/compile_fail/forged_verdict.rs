// SPDX-License-Identifier: GPL-2.0
//~ E0451: a verdict can't be made up
fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    let verdict = bio.pass();
    let verdict = Verdict { ..verdict }; //~ bad
    verdict
}
