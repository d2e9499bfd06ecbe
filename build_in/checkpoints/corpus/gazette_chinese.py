"""Chinese documents of the gazette text: facts, weather, markets, people, short news."""

from __future__ import annotations

import random
from collections.abc import Callable

from corpus.choices import draw, mostly, pick_even
from corpus.village_facts import CHINESE_COUNTRIES

SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗"
GIVEN_NAMES = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉建国文辉力婷宇雪梅春兰松波龙云"
CITIES = (
    "北京",
    "上海",
    "广州",
    "成都",
    "西安",
    "杭州",
    "南京",
    "武汉",
    "重庆",
    "天津",
    "苏州",
    "青岛",
    "大连",
    "昆明",
)
FOODS = ("苹果", "大米", "白菜", "鸡蛋", "牛肉", "土豆", "茶叶", "豆腐", "葡萄", "面粉", "西瓜", "蜂蜜", "橘子", "花生")
MEASURES = ("斤", "公斤", "箱", "袋", "盒")
SKIES = ("晴", "多云", "小雨", "大雪", "阴", "有雾", "大雨", "雷阵雨")
WINDS = ("东风", "西风", "南风", "北风", "东北风", "西南风")
JOBS = ("医生", "老师", "工程师", "画家", "作家", "农民", "司机", "律师", "记者", "厨师", "木匠", "科学家")
SUBJECTS = ("历史", "数学", "音乐", "医学", "文学", "法律", "物理", "化学", "美术", "地理")
PLACES = ("图书馆", "学校", "医院", "公园", "火车站", "博物馆", "市场", "大桥", "剧院", "码头")
ANIMALS = ("狐狸", "猫头鹰", "兔子", "熊", "山羊", "青蛙", "马", "狼", "鹿", "老虎", "大象", "猴子")
THINGS = ("信", "钥匙", "灯", "钟", "篮子", "镜子", "地图", "雨伞", "帽子", "书", "望远镜", "自行车")
ADJECTIVES = ("旧", "小", "大", "新", "漂亮的", "奇怪的", "破", "红", "金色的", "古老的", "沉重的", "安静的")
VERBS = ("找到了", "买了", "卖了", "丢了", "修好了", "借了", "看见了", "送来了", "打开了", "忘了")
FEELINGS = ("高兴", "生气", "难过", "惊讶", "满意", "着急", "害怕", "放心")


def person(rng: random.Random) -> str:
    """A full name of two or three characters."""
    given = "".join(draw(rng, GIVEN_NAMES, rng.randrange(3)) for _ in range(1 + mostly(rng, 0.6)))
    return draw(rng, SURNAMES) + given


def date(rng: random.Random) -> str:
    """A day of a year."""
    return f"{rng.randint(1890, 2024)}年{rng.randint(1, 12)}月{rng.randint(1, 28)}日"


def facts(rng: random.Random) -> str:
    """Two countries with their capitals, and a river."""
    country, capital, river = CHINESE_COUNTRIES[pick_even(rng, tuple(CHINESE_COUNTRIES))]
    second, its_capital, _ = CHINESE_COUNTRIES[rng.choice(tuple(CHINESE_COUNTRIES))]
    sentences = [f"{country}的首都是{capital}。", f"{capital}位于{river}边。"]
    if mostly(rng, 0.6):
        sentences.append(f"{date(rng)}，{person(rng)}从{capital}坐火车去{its_capital}。")
    if mostly(rng, 0.4):
        sentences.append(f"{second}的首都是{its_capital}。")
    return "".join(sentences)


def weather(rng: random.Random) -> str:
    """The weather of a day in one city."""
    low = rng.randint(-12, 24)
    return (
        f"{date(rng)}，{draw(rng, CITIES)}{draw(rng, SKIES)}，{draw(rng, WINDS)}{rng.randint(1, 8)}级，"
        f"气温{low}到{low + rng.randint(3, 11)}度。"
    )


def market(rng: random.Random) -> str:
    """Prices at a market."""
    city = draw(rng, CITIES)
    prices = [
        f"{draw(rng, FOODS, len(city) + index)}每{draw(rng, MEASURES)}{rng.randint(1, 90)}元" for index in range(3)
    ]
    return f"今天{city}的市场上，" + "，".join(prices) + "。"


def life(rng: random.Random) -> str:
    """Someone's life in a few sentences."""
    name, city, job = person(rng), draw(rng, CITIES), draw(rng, JOBS)
    subject = draw(rng, SUBJECTS, JOBS.index(job))
    sentences = [f"{name}是一位{job}，{date(rng)}生于{city}。", f"{name}在{draw(rng, CITIES)}学过{subject}。"]
    if mostly(rng, 0.7):
        sentences.append(f"他的朋友{person(rng)}住在{city}的{draw(rng, PLACES)}旁边。")
    return "".join(sentences)


def news(rng: random.Random) -> str:
    """A small event."""
    name, thing = person(rng), draw(rng, ADJECTIVES) + draw(rng, THINGS)
    place = f"{draw(rng, CITIES)}的{draw(rng, PLACES)}"
    return (
        f"{date(rng)}，{name}在{place}{draw(rng, VERBS)}一个{thing}。"
        f"有人看见一只{draw(rng, ANIMALS)}，{name}很{draw(rng, FEELINGS)}。"
    )


KINDS: tuple[tuple[float, Callable[[random.Random], str]], ...] = (
    (0.30, facts),
    (0.20, news),
    (0.18, life),
    (0.16, weather),
    (0.16, market),
)


def chinese(rng: random.Random) -> str:
    """One document in Chinese, one line."""
    shares, kinds = zip(*KINDS, strict=True)
    make: Callable[[random.Random], str] = rng.choices(kinds, weights=shares)[0]
    return make(rng)
