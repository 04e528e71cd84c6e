// SPDX-License-Identifier: GPL-2.0
//~ E0382: a bio that was taken does not go on by itself
fn submit_bio<'cb>(bio: Incoming<'cb>) -> Verdict<'cb> {
    let Ok((owned, verdict)) = bio.take() else {
        loop {}
    };
    owned.resubmit();
    return bio.pass(); //~ bad
    verdict
}
