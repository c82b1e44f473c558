"""Two towers: a user's habits and genres, and how a film fares, its year and genres; and how he would rate each film.

A film that was rated lately has the score ln(1 + ratings of the last seven days), plus what the film's tower says, plus
the product of both towers: who watches films at once is given others than who waits, or than a friend of horror. The
other films come behind them, by how often they are rated and by genres, so that one which nobody has rated yet is known
too. A rating is a mean, the biases of film and user, which are shrunken means of what is known before, and what a
network makes of these, of the film's genres, and of how the user rated these genres.

The loss is a softmax over the recent films, another one over all others, and the squared error of ratings. A single
softmax over all films spends itself on the long tail, which nobody can foresee, and vectors of the films themselves
learn what was popular once: both made the first ten worse than mere popularity in some of the months before val.

`python -m bench.recipes --recipes movietweetings`, three seeds: RMSE 1.639, and 1.646 of biases alone. But the first
ten have an NDCG of 0.1166 on test rows, where the most rated films of the last seven days have 0.1243. The windows
before test, by which the recipe was chosen, said otherwise (docs/log.md).

Source: the biases: Koren, "Factorization Meets the Neighborhood", KDD 2008, section 2.1; their shrinking is learnt.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.card import Card
from penstock.errors import RecipeError
from train import ranking
from train.config import Optimizer, Schedule, TrainConfig

__all__ = ["build_model", "config", "loss", "lower_is_better", "metrics", "names", "predict", "prepare"]
INPUTS = (
    *("history", "history_ratings", "history_means", "history_nums", "habits"),
    *("recent", "counts", "watched", "watched_means", "watched_nums"),
)
HIDDEN, WIDTH = 32, 8
LIKE_ALL = 3  # films that count with a user's own in his share of each genre
BEHIND = 100.0  # what the scores of films are less that are not recent
TAIL_WEIGHT, RATING_WEIGHT = 0.1, 0.1  # of their softmax, and of the squared errors


def config(model: str | None = None) -> TrainConfig:
    if model not in (None, "two_towers"):
        raise RecipeError(f"recipe 'movietweetings': no model {model!r}; there is two_towers")
    return TrainConfig(
        model="two_towers",
        epochs=6,
        global_batch_size=256,
        optimizer=Optimizer(lr=1e-2, weight_decay=0.1),
        schedule=Schedule(warmup=0.1, decay="linear"),
    )


class Outputs(NamedTuple):
    scores: Tensor  # (B, films + 1) of each film, from 1; -inf for what the user has rated
    ratings: Tensor  # (B, T), about 0 to 10, of the films in `watched`, on which scores do not depend


NUM_COUNTS, WEEK = 7, 2  # what dataset.py counts of a recent film, and which of them the last seven days are
YEAR, OLD = 2013, 10  # of the ratings; from so many years on films are of one age


class TwoTowers(nn.Module):
    genres: Tensor
    ages: Tensor

    def __init__(self, num_habits: int, genres: Tensor, years: Tensor) -> None:
        """`genres` (films + 1, genres) has the share of each genre, adding up to 1 for a film that has some.

        `years` (films + 1) are those in which the films came out.
        """
        super().__init__()
        num_films, num_genres = genres.shape
        self.register_buffer("genres", genres, persistent=False)
        self.register_buffer("ages", (YEAR - years).clamp(max=OLD), persistent=False)
        self.user = tower(num_habits + num_genres, WIDTH)
        self.recent = tower(NUM_COUNTS + 2 + num_genres, WIDTH + 1)
        self.tail_user, self.tail_genre = nn.Linear(num_genres, WIDTH), nn.Linear(num_genres, WIDTH + 1)
        self.tail_film = nn.Embedding(num_films, 1)
        self.mean = nn.Parameter(torch.tensor(7.0))
        self.priors = nn.Parameter(torch.full((3,), 3.0))  # ratings that count with those of a film, user, genre
        self.rating = tower(5 + num_habits + num_genres, 1)
        for weight in (*self.recent[-1:].parameters(), *self.rating[-1:].parameters(), self.tail_film.weight):
            nn.init.zeros_(weight)  # so that training begins with popularity and biases

    def forward(self, inputs: dict[str, Tensor]) -> Outputs:
        history, recent = inputs["history"].long(), inputs["recent"].long()  # (B, T), (B, K)
        some = (history != 0).float()
        num_rated = some.sum(dim=1, keepdim=True)  # (B, 1)
        likes = LIKE_ALL * self.genres[history].sum(dim=1) / (num_rated + LIKE_ALL)  # (B, genres)

        counts = inputs["counts"].float().log1p().view(*recent.shape, NUM_COUNTS)  # (B, K, NUM_COUNTS)
        user = self.user(torch.cat([inputs["habits"], likes], dim=1))
        ranks = torch.arange(1, recent.shape[1] + 1, device=recent.device).log().expand_as(recent)
        fares = torch.stack([ranks - 2, self.ages[recent] / 3], dim=2)
        film = self.recent(torch.cat([counts - 3, fares, self.genres[recent]], dim=2))
        head = counts[:, :, WEEK] + film[:, :, -1] + (film[:, :, :-1] @ user[:, :, None])[:, :, 0]
        genre = self.tail_genre(self.genres)
        tail = (self.tail_film.weight + genre[:, -1:])[:, 0] + self.tail_user(likes) @ genre[:, :-1].T
        scores = (tail - BEHIND).scatter(1, recent, head)
        seen = torch.zeros_like(scores).scatter(1, history, some)
        scores = torch.where(seen > 0, -torch.inf, scores)

        of_film, of_user, of_genre = self.priors.abs()
        watched = inputs["watched"].long()  # (B, T')

        def bias(means: Tensor, nums: Tensor) -> Tensor:
            shrunken: Tensor = (means - self.mean) * nums / (nums + of_film)
            return shrunken

        known = bias(inputs["history_means"], inputs["history_nums"].float())
        above = (inputs["history_ratings"] - self.mean - known) * some  # (B, T)
        genres = self.genres[history]  # (B, T, genres)
        taste = (above[:, None] @ genres)[:, 0] / (genres.sum(dim=1) + of_genre)  # (B, genres)
        nums = inputs["watched_nums"].float()
        film_bias, user_bias = (
            bias(inputs["watched_means"], nums),
            above.sum(dim=1, keepdim=True) / (num_rated + of_user),
        )
        of_pair = torch.stack(
            [
                film_bias,
                nums.log1p() / 3,
                user_bias.expand_as(nums),
                num_rated.log1p().expand_as(nums) / 3,
                (self.genres[watched] @ taste[:, :, None])[:, :, 0],
            ],
            dim=2,
        )  # (B, T', 5)
        habits = inputs["habits"][:, None].expand(-1, nums.shape[1], -1)
        more = self.rating(torch.cat([of_pair, habits, self.genres[watched]], dim=2))[:, :, 0]
        return Outputs(scores, self.mean + film_bias + user_bias + more)


def tower(num_inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    table = card.transforms["history"]["table"]
    of_films = table["genres"]
    known = {genre: i for i, genre in enumerate(sorted({genre for genres in of_films for genre in genres}))}
    shares = torch.zeros(len(of_films) + 1, len(known))
    for film, genres in enumerate(of_films, 1):
        for genre in genres:
            shares[film, known[genre]] = 1 / len(genres)
    (num_habits,) = card.schema["habits"].shape
    return TwoTowers(num_habits, shares, torch.tensor([0.0, *table["year"]]))


def prepare(batch: dict[str, Any], card: Card) -> dict[str, Tensor]:
    """Lists (B, T) padded with 0, and (B, elements) habits."""
    return {name: values for name, values in batch.items() if name in INPUTS}


def loss(outputs: Outputs, batch: dict[str, Any], config: TrainConfig) -> tuple[Tensor, Tensor]:
    """(B,) mean nats of the films that a user watches, recent and other ones, and squared errors of ratings; (B,) 1."""
    recent, watched = batch["recent"].long(), batch["watched"].long()
    scores = outputs.scores
    head = nats(scores.gather(1, recent).masked_fill(recent == 0, -torch.inf), ranking.hits(recent, watched))
    others = scores.scatter(1, torch.cat([recent, torch.zeros_like(recent[:, :1])], dim=1), -torch.inf)
    is_watched = torch.zeros_like(scores).scatter(1, watched, 1.0)
    tail = nats(others, is_watched.scatter(1, recent, 0.0).masked_fill(others == -torch.inf, 0.0))
    return head + TAIL_WEIGHT * tail + RATING_WEIGHT * squared_errors(outputs, batch), torch.ones_like(head)


def nats(scores: Tensor, chosen: Tensor) -> Tensor:
    """(B,) the mean cross-entropy of the chosen among all (B, n) that are not -inf; 0 where none is chosen."""
    found = F.log_softmax(scores.clamp(min=-1e9), dim=1)
    mean: Tensor = -(chosen * found).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
    return mean


def squared_errors(outputs: Outputs, batch: dict[str, Any]) -> Tensor:
    """(B,) the sum over a user's ratings."""
    watched = batch["watched"]
    errors = (outputs.ratings - batch["ratings"]) ** 2 * (watched != 0)
    summed: Tensor = errors.sum(dim=1)
    return summed


def predict(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """(B, 10) the films that come first, the first one first, and their scores."""
    return ranking.top(outputs.scores)


def names(card: Card) -> list[int | None]:
    """IMDb's number of each film."""
    return [None, *map(int, card.transforms["history"]["values"])]


def mean_squared_error(outputs: Outputs, batch: dict[str, Any]) -> Tensor:
    """(B,) of each user's ratings, held within 0 to 10; users count alike, however many ratings they have."""
    within = outputs._replace(ratings=outputs.ratings.clamp(0, 10))
    num_ratings: Tensor = (batch["watched"] != 0).sum(dim=1).clamp(min=1)
    return squared_errors(within, batch) / num_ratings


lower_is_better = {"mean_squared_error"}
metrics = {
    **ranking.metrics("watched", scores=lambda outputs: outputs.scores),
    "mean_squared_error": mean_squared_error,
}
