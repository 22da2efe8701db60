def ranking(selection):
    return sorted(range(len(selection)), key=lambda c: (-selection[c], c))


def finish(rank, alone):
    return [[c] for c in rank[:alone]] + [rank[alone:]] * (alone < len(rank))


def at_least(selection):
    "At a tie pooling costs nothing"
    rank, alone = ranking(selection), 2
    while 0 < sum(selection[c] for c in rank[alone:]) >= selection[rank[1]]:
        alone += 1
    return finish(rank, alone)


def once(selection):
    "You split once"
    rank = ranking(selection)
    rest = sum(selection[c] for c in rank[2:])
    return finish(rank, 2 + (rest > selection[rank[1]]))


def against_the_winner(selection):
    "Do you compare with A"
    rank, alone = ranking(selection), 2
    while sum(selection[c] for c in rank[alone:]) > selection[rank[0]]:
        alone += 1
    return finish(rank, alone)


def only_classes_with_votes(selection):
    "are in no bucket"
    rank, alone = [c for c in ranking(selection) if selection[c]], 2
    while sum(selection[c] for c in rank[alone:]) > selection[rank[1]]:
        alone += 1
    return finish(rank, alone)
