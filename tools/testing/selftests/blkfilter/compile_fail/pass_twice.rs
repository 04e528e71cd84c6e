// SPDX-License-Identifier: GPL-2.0
//~ E0382: a bio gets one verdict
fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    let verdict = bio.pass();
    let verdict = bio.end(BlkStatus::OK); //~ bad
    verdict
}
